"""Knows whether one profile is faster than another, as far as the spread of their samples allows to
say.

The ratio is the Hodges-Lehmann estimate on logarithms: the median over all pairs of one sample of
each side. Its interval holds at 99 % whatever the distribution (Mann-Whitney's exact test turned
round; Hollander & Wolfe, *Nonparametric Statistical Methods*, section 4.3). Nothing is assumed of
the samples but that they were taken alike.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketvlm.errors import RequestError
from pocketvlm_measure.table import Table, compact

CONFIDENCE = 0.99
SMALL = 0.02  # two runs at different times differ by this much for no reason that matters

_KEY = ("budget", "decoder", "decoder_precision", "vision_precision", "n_threads")
_CONDITIONS = (
    "cpu_info",
    "system",
    "governor",
    "prompt_tokens",
    "new_tokens",
    "version_pocketvlm",
    "backends",
)


@dataclass(frozen=True)
class Comparison:
    """B beside A in one stage of one configuration.

    Attributes:
        case: what was measured, for people.
        stage: as in a profile's rows, or "peak memory".
        a, b: the medians, in milliseconds or megabytes.
        ratio: b to a, see the module; below 1 B is the better.
        low, high: its interval; None where there are too few samples for any.
    """

    case: str
    stage: str
    a: float
    b: float
    ratio: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """ "less", "more", "same within the spread", or "too few samples"."""
        if self.low is None or self.high is None:
            return "too few samples"
        if self.high < 1 - SMALL:
            return "less"
        return "more" if self.low > 1 + SMALL else "same within the spread"


def ratio_interval(
    a: Sequence[float], b: Sequence[float]
) -> tuple[float, float | None, float | None]:
    """(ratio of b to a, lower, upper end of its interval at `CONFIDENCE`); no ends where the
    samples are too few."""
    pairs = np.sort(np.subtract.outer(np.log(b), np.log(a)).ravel())
    middle = math.exp(float(np.median(pairs)))
    outside = _outside(len(a), len(b))
    if outside == 0:
        return middle, None, None
    return middle, math.exp(pairs[outside - 1]), math.exp(pairs[-outside])


@functools.cache
def _outside(n: int, m: int) -> int:
    """How many of the n * m sorted pairs may lie beyond each end of the interval, the end itself
    counted."""
    chances = rank_sum_chances(n, m)
    below, count = 0.0, 0
    for chance in chances:
        below += chance
        if below > (1 - CONFIDENCE) / 2:
            break
        count += 1
    return count


@functools.cache
def rank_sum_chances(n: int, m: int) -> tuple[float, ...]:
    """The chance of each value 0..n*m of Mann-Whitney's U where both sides are alike."""
    # Coefficients of the Gaussian binomial [n+m over n], built factor by factor: (1 - q^(m+i)) / (1
    # - q^i).
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            ways[u] -= ways[u - m - i]
        for u in range(i, n * m + 1):
            ways[u] += ways[u - i]
    total = sum(ways)
    return tuple(count / total for count in ways)


def compare(a: Path, b: Path) -> tuple[list[Comparison], list[str]]:
    """Compare two JSONL files of profiles stage by stage, and say in which conditions they differ.

    Configurations that both have are compared; where each file has only one, those two are,
    whatever they are.

    Raises:
        PocketVLMError: a file that is none of ours, or nothing in common.
    """
    ours, theirs = _read(a), _read(b)
    shared = [key for key in ours if key in theirs]
    pairs = [(ours[key], theirs[key]) for key in shared]
    if not pairs and len(ours) == len(theirs) == 1:
        pairs = [(next(iter(ours.values())), next(iter(theirs.values())))]
    if not pairs:
        raise RequestError(
            f"{a} and {b} have no configuration in common",
            advice="profile the same budgets and precisions",
        )
    found = [comparison for one, other in pairs for comparison in _stages(one, other)]
    return found, list(
        dict.fromkeys(text for one, other in pairs for text in _differences(one, other))
    )


def comparison_table(found: Sequence[Comparison]) -> Table:
    """For people."""
    body = []
    for item in found:
        interval = (
            "" if item.low is None or item.high is None else f"{item.low:.2f}-{item.high:.2f}"
        )
        body.append(
            [
                item.case,
                item.stage,
                compact(item.a),
                compact(item.b),
                f"{item.ratio:.2f}x",
                interval,
                item.verdict,
            ]
        )
    title = f"B beside A: medians in ms (memory in MB), ratio with its {CONFIDENCE:.0%} interval:"
    return Table(title, ["configuration", "stage", "A", "B", "B/A", "interval", "B takes"], body)


_Rows = dict[str, Mapping[str, Any]]  # by stage


def _stages(ours: _Rows, theirs: _Rows) -> Iterator[Comparison]:
    first, other = next(iter(ours.values())), next(iter(theirs.values()))
    case = _name(first) if _name(first) == _name(other) else f"{_name(first)} -> {_name(other)}"
    for stage in (stage for stage in ours if stage in theirs):
        yield from _compared(case, stage, ours[stage]["samples_ns"], theirs[stage]["samples_ns"])
    peaks = "samples_peak_memory_bytes"
    yield from _compared(case, "peak memory", first.get(peaks, []), other.get(peaks, []))


def _compared(
    case: str, stage: str, a: Sequence[float], b: Sequence[float]
) -> Iterator[Comparison]:
    """Nothing where a stage took no time at all, as the embedding inside llama.cpp."""
    if not a or not b or min(*a, *b) <= 0:
        return
    yield Comparison(
        case, stage, float(np.median(a)) / 1e6, float(np.median(b)) / 1e6, *ratio_interval(a, b)
    )


def _differences(ours: _Rows, theirs: _Rows) -> Iterator[str]:
    one, other = next(iter(ours.values())), next(iter(theirs.values()))
    for key in _CONDITIONS:
        if one.get(key) != other.get(key):
            yield f"{key}: {one.get(key)} in A, {other.get(key)} in B"


def _name(row: Mapping[str, Any]) -> str:
    return (
        f"{row['budget']} tokens, {row['decoder']} {row['decoder_precision']}, vision "
        f"{row['vision_precision']}, {row['n_threads']} threads"
    )


def _read(path: Path) -> dict[tuple[Any, ...], _Rows]:
    """Rows by configuration, then by stage."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path} cannot be read ({error})", advice="give a JSONL file of `pocketvlm profile`"
        ) from error
    found: dict[tuple[Any, ...], _Rows] = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None:
            raise RequestError(
                f"{path} line {number} is no row of a profile",
                advice="give a JSONL file that `pocketvlm profile` wrote",
            )
        found.setdefault(tuple(row[key] for key in _KEY), {})[row["stage"]] = row
    if not found:
        raise RequestError(
            f"{path} is empty", advice="give a JSONL file that `pocketvlm profile` wrote"
        )
    return found


def _row(line: str) -> Mapping[str, Any] | None:
    """The row in a line, or None: strings and numbers as keys, samples that are positive or
    zero."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(
        isinstance(row.get(key), str | int) for key in (*_KEY, "stage")
    ):
        return None
    lists = (row.get("samples_ns"), row.get("samples_peak_memory_bytes", []))
    return row if all(_are_numbers(values) for values in lists) else None


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        for value in values
    )
