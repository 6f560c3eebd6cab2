"""What each pruning method should keep, written again in numpy and float64.

Each method of `pocketvlm_export.pruning.PRUNERS` has a module of its name here, with a function
``rank``; a method from another package brings its own.
"""

from collections.abc import Mapping
from functools import wraps
from importlib import import_module
from typing import Any

from pocketvlm_export.pruning import PLUGINS, PRUNERS, find_pruner, module_name
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
    """Return the oracle of a registered method; that of another package names the package in a
    `RequestError` where it fails."""
    if method not in PRUNERS:
        packaged = find_pruner(method).oracle
        assert packaged is not None
        return _blaming(method, packaged)
    oracle: Oracle = import_module(f"{__name__}.{module_name(method)}").rank
    return oracle


def _blaming(method: str, oracle: Oracle) -> Oracle:
    @wraps(oracle)
    def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
        with PLUGINS.blamed(method):
            return oracle(encoded, options)

    return rank
