"""Pruning methods by name; a new one is a module here and one line of `PRUNERS`."""

from collections.abc import Mapping

from pocketvlm import PocketVLMError
from pocketvlm_export.pruning.base import Evidence, Pruner, Selection, take_best
from pocketvlm_export.pruning.fastervlm import FasterVLM
from pocketvlm_export.pruning.none import NoPruning

PRUNERS: dict[str, type[Pruner]] = {cls.name: cls for cls in (FasterVLM, NoPruning)}

__all__ = ["PRUNERS", "Evidence", "Pruner", "Selection", "make_pruner", "take_best"]


def make_pruner(name: str, options: Mapping[str, str]) -> Pruner:
    """Return the method called ``name``; raises `PocketVLMError` for an unknown name or option."""
    if name not in PRUNERS:
        raise PocketVLMError(f"pruner {name!r} is unknown: choose from {', '.join(PRUNERS)}")
    return PRUNERS[name](options)
