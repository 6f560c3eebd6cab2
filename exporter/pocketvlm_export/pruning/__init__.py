"""Pruning methods by name; a new one is a module here and one line of `PRUNERS`. Importing this
imports no torch."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from pocketvlm.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm_export.pruning.base import Pruner

__all__ = ["PRUNERS", "find_pruner", "make_pruner"]

# What each class is called; it lies in the module of its method's name, "_" for "-".
PRUNERS: Mapping[str, str] = {
    "fastervlm": "FasterVLM",
    "vtc-cls": "VTCCLS",
    "gprune": "GPrune",
    "divprune": "DivPrune",
    "received-attention": "ReceivedAttention",
    "uniform": "Uniform",
    "random": "Random",
    "none": "NoPruning",
}


def find_pruner(name: str) -> "type[Pruner]":
    """Return the class of the method called ``name``; raises `PocketVLMError` where there is
    none."""
    if name not in PRUNERS:
        raise RequestError(
            f"pruner {name!r} is unknown", advice=f"choose from {', '.join(PRUNERS)}"
        )
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    found: type[Pruner] = getattr(module, PRUNERS[name])
    return found


def make_pruner(name: str, options: Mapping[str, str]) -> "Pruner":
    """Return the method called ``name``; raises `PocketVLMError` for an unknown name or option, or
    a value refused."""
    return find_pruner(name)(options)
