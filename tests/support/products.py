"""Knows how many combinations of registry entries a run tries: every pair, or with
``--all-combinations`` every one."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from allpairspy import AllPairs


def combinations(
    config: pytest.Config,
    factors: Mapping[str, Sequence[Any]],
    allowed: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> list[dict[str, Any]]:
    """Combinations of one value of each factor, as {factor: value}.

    Args:
        config: of the test run.
        factors: {factor: its values}.
        allowed: whether a combination, perhaps of the first few factors only, makes sense.

    Returns:
        With ``--all-combinations`` the whole product; else few combinations in which every pair of
        values of two factors occurs that may occur at all.
    """
    names = list(factors)

    def sensible(row: Sequence[Any]) -> bool:
        return allowed(dict(zip(names, row, strict=False)))

    if config.getoption("all_combinations"):
        rows = [row for row in itertools.product(*factors.values()) if sensible(row)]
    else:
        rows = list(AllPairs(list(factors.values()), filter_func=sensible))
    return [dict(zip(names, row, strict=True)) for row in rows]
