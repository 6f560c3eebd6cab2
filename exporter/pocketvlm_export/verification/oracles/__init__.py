"""What each pruning method should keep, written again in numpy and float64.

Each method of `pocketvlm_export.pruning.PRUNERS` has a module of its name here, with a function
``rank``; a method from another package brings its own.
"""

from importlib import import_module

from pocketvlm_export.pruning import PRUNERS, find_pruner, module_name
from pocketvlm_export.verification.oracles.base import (
    AmongPlaces,
    Encoded,
    Mixture,
    Oracle,
    Ranking,
)
from pocketvlm_export.verification.oracles.merging import average_dropped

__all__ = [
    "AmongPlaces",
    "Encoded",
    "Mixture",
    "Oracle",
    "Ranking",
    "average_dropped",
    "find_oracle",
]


def find_oracle(method: str) -> Oracle:
    """Return the oracle of a registered method."""
    if method not in PRUNERS:
        packaged = find_pruner(method).oracle
        assert packaged is not None
        return packaged
    oracle: Oracle = import_module(f"{__name__}.{module_name(method)}").rank
    return oracle
