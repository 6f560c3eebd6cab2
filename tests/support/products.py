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
        rows = [list(row) for row in itertools.product(*factors.values()) if sensible(row)]
    else:
        rows = [list(row) for row in AllPairs(list(factors.values()), filter_func=sensible)]
        rows += _completing(rows, list(filter(sensible, itertools.product(*factors.values()))))
    return [dict(zip(names, row, strict=True)) for row in rows]


def _completing(rows: list[list[Any]], product: list[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows of the product with the pairs that others lack: a choice that is allowed step by step
    may end where the last factor has no value left for a pair."""

    def pairs(row: Sequence[Any]) -> set[tuple[int, int, str, str]]:
        numbers = itertools.combinations(range(len(row)), 2)
        return {(i, j, str(row[i]), str(row[j])) for i, j in numbers}

    missing = set().union(*map(pairs, product)) - set().union(*map(pairs, rows))
    added = []
    while missing:
        best = max(product, key=lambda row: len(pairs(row) & missing))
        added.append(list(best))
        missing -= pairs(best)
    return added
