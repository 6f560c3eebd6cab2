"""Pruning methods by name; importing this imports no torch.

A new one is a module here, a module of the same name in `pocketvlm_export.verification.oracles`,
and one line of `PRUNERS`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from pocketvlm.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm_export.pruning.base import Pruner

__all__ = ["KEEPS_ALL", "PRUNERS", "find_pruner", "make_pruner", "module_name"]

# By method the name of its class, in the module of the method's name with "_" for "-". The function
# ``rank`` of the module of that name in `pocketvlm_export.verification.oracles` is its oracle.
PRUNERS: Mapping[str, str] = {
    "fastervlm": "FasterVLM",
    "vtc-cls": "VTCCLS",
    "gprune": "GPrune",
    "divprune": "DivPrune",
    "scope": "Scope",
    "score": "SCoRe",
    "received-attention": "ReceivedAttention",
    "uniform": "Uniform",
    "random": "Random",
    "none": "NoPruning",
}
KEEPS_ALL = "none"  # the method whose ``prunes`` is False, for whoever must not import it


def find_pruner(name: str) -> "type[Pruner]":
    """Return the class of the method called ``name``; raises `RequestError` where there is none."""
    if name not in PRUNERS:
        raise RequestError(
            f"pruner {name!r} is unknown",
            advice=f"choose from {', '.join(PRUNERS)}",
            setting="pruner",
        )
    pruner: type[Pruner] = getattr(import_module(f"{__name__}.{module_name(name)}"), PRUNERS[name])
    return pruner


def module_name(name: str) -> str:
    """Return what the modules of a method are called, its own and its oracle's."""
    return name.replace("-", "_")


def make_pruner(name: str, options: Mapping[str, str]) -> "Pruner":
    """Return the method called ``name``; raises `RequestError` for an unknown name or option, or a
    value out of its limits."""
    return find_pruner(name)(options)
