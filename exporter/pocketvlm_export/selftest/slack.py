"""Knows how far from what was measured here a sound device may be: bounds from figures.

A sound CPU rounds otherwise than this one: it adds in another order, and products of bytes may take
another instruction. A graph that is exact here may differ by `EXACT` there. One that loses some of
the features or logits by its precision may lose `TIMES` as much, and is never held to less than
`LEAST` of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm.selftest.expected import Bounds
from pocketvlm.selftest.result import Figure

EXACT = 1e-3
TIMES = 3.0
LEAST = {"features": 0.01, "logits": 0.02, "attention": 0.02, "kept": 0.1}


def bounds_of(figures: Sequence[Figure], *, exact: bool) -> Bounds:
    """Return the bounds of a graph whose ``figures`` were measured beside the reference.

    Args:
        figures: from `judge_vision` or `judge_answer`.
        exact: whether the graph is the reference in float32: its kept set must be equal, and its
            values to within `EXACT`, where a rounding does not decide them here either.
    """
    values = {figure.name: figure.value for figure in figures}
    measured = {name: round(value, 6) for name, value in values.items() if name in LEAST}
    cosines = [name for name in LEAST if name in values and name != "kept"]
    cosine = min(_least(values, name, exact=exact) for name in cosines)
    return Bounds(
        cosine=cosine,
        kept_overlap=_least(values, "kept", exact=exact) if "kept" in values else None,
        difference=EXACT if exact else None,
        measured=measured,
    )


def _least(values: dict[str, float], name: str, *, exact: bool) -> float:
    lost = 1 - values[name]
    if exact:
        most = 0.0 if name == "kept" else EXACT
        return max(0.0, 1 - max(most, TIMES * lost))
    return round(max(0.0, 1 - max(LEAST[name], TIMES * lost)), 6)
