"""Which tokens each way of `pocketvlm_export.tower_stages` should keep, written again in numpy
and float64.

Each way of `TOWER_STAGES` has a module of its name here, with a function ``choose``.
"""

from importlib import import_module

from pocketvlm_export.tower_stages import find_criterion
from pocketvlm_export.verification.tower_stages.base import Choice, Chooser, Layer

__all__ = ["Choice", "Chooser", "Layer", "find_chooser"]


def find_chooser(name: str) -> Chooser:
    """Return the oracle of a registered way; raises `RequestError` for another."""
    find_criterion(name)  # the name may be an artifact's
    chooser: Chooser = import_module(f"{__name__}.{name}").choose
    return chooser
