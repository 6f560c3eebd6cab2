"""What each pruning method should keep, written again in numpy and float64.

Each method of `pocketvlm_export.pruning.PRUNERS` has a module of its name here, with a function
``rank``.
"""

from importlib import import_module

from pocketvlm_export.pruning import module_name
from pocketvlm_export.verification.oracles.base import AmongPlaces, Encoded, Oracle, Ranking

__all__ = ["AmongPlaces", "Encoded", "Oracle", "Ranking", "find_oracle"]


def find_oracle(method: str) -> Oracle:
    """Return the oracle of a registered method."""
    oracle: Oracle = import_module(f"{__name__}.{module_name(method)}").rank
    return oracle
