"""Pruning methods by name; importing this imports no torch.

A new one is a module here, a module of the same name in `pocketvlm_export.verification.oracles`,
and one line of `PRUNERS`. Or it is a package of its own that registers it as an entry point of the
group `PLUGINS`, see docs/add-a-method.md.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import RequestError
from pocketvlm.plugins import Plugins

if TYPE_CHECKING:
    from pocketvlm_export.pruning.base import Pruner

__all__ = [
    "KEEPS_ALL",
    "PLUGINS",
    "PRUNERS",
    "TUNED",
    "find_pruner",
    "make_pruner",
    "module_name",
    "pruner_names",
    "usable_pruners",
]

# By method the name of its class, in the module of the method's name with "_" for "-". The function
# ``rank`` of the module of that name in `pocketvlm_export.verification.oracles` is its oracle.
PRUNERS: Mapping[str, str] = {
    "fastervlm": "FasterVLM",
    "vtc-cls": "VTCCLS",
    "gprune": "GPrune",
    "divprune": "DivPrune",
    "cdpruner": "CDPruner",
    "scope": "Scope",
    "score": "SCoRe",
    "received-attention": "ReceivedAttention",
    "visionzip": "VisionZip",
    "uniform": "Uniform",
    "random": "Random",
    "none": "NoPruning",
}
# What `pocketvlm tune` tries beside a family's default, where the tower allows it: of those that
# compare features and of those that read attention, see docs/methods.md.
TUNED = ("divprune", "fastervlm")
KEEPS_ALL = "none"  # the method whose ``prunes`` is False, for whoever must not import it


def _problem(name: str, loaded: Any) -> str | None:
    """What is wrong with the method that a package registers under ``name``."""
    problem: str | None = import_module(f"{__name__}.packaged").problem(name, loaded)
    return problem


PLUGINS = Plugins("pocketvlm.pruners", "pruner", PRUNERS, _problem)


def pruner_names() -> list[str]:
    """Names of all methods, those of other packages last; nothing is imported."""
    return [*PRUNERS, *PLUGINS.names()]


def find_pruner(name: str) -> "type[Pruner]":
    """Return the class of the method called ``name``; raises `RequestError` where there is none, or
    where the package that it is from is broken."""
    if name in PRUNERS:
        module = import_module(f"{__name__}.{module_name(name)}")
        own: type[Pruner] = getattr(module, PRUNERS[name])
        return own
    try:
        loaded: type[Pruner] = PLUGINS.load(name)
    except KeyError:
        raise RequestError(
            f"pruner {name!r} is unknown",
            advice=f"choose from {', '.join(pruner_names())}",
            setting="pruner",
        ) from None
    return loaded


def usable_pruners() -> "Iterator[type[Pruner]]":
    """Yield all methods, without those of packages that are broken."""
    for name in pruner_names():
        try:
            yield find_pruner(name)
        except RequestError:
            if name in PRUNERS:
                raise


def module_name(name: str) -> str:
    """Return what the modules of a method are called, its own and its oracle's."""
    return name.replace("-", "_")


def make_pruner(name: str, options: Mapping[str, str], *, merge_dropped: bool = False) -> "Pruner":
    """Return the method called ``name``, which with ``merge_dropped`` averages what it drops into
    what it keeps. Raises `RequestError` for an unknown name or option, a value out of its limits,
    or a method that has nothing to merge. A failure in a method from another package is one too,
    and names the package."""
    method = find_pruner(name)
    if name not in PRUNERS:
        method = import_module(f"{__name__}.packaged").guarded(method, PLUGINS)
    if merge_dropped:
        method = import_module(f"{__name__}.merging").merging(method)
    return method(options)
