"""Knows whether one profile is faster than another, as far as the spread of their samples shows.

The ratio is the Hodges-Lehmann estimate on logarithms: the median over all pairs of one sample of
each side. Its 99 % interval holds for any distribution: Mann-Whitney's exact test inverted
(Hollander & Wolfe, *Nonparametric Statistical Methods*, section 4.3). It assumes nothing of the
samples but that both sides were taken under the same conditions.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from pocketvlm.errors import RequestError
from pocketvlm.files import read_text
from pocketvlm_measure.table import Table, compact
from pocketvlm_targets.text import parse_json

CONFIDENCE = 0.99
SMALL = 0.02  # two runs of the same at different times differ by this much

_KEY = ("budget", "decoder", "decoder_precision", "vision_precision", "n_threads")
_CONDITIONS = (
    "cpu_info",
    "system",
    "governor",
    "picture_sizes",
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
        ratio: b to a, see the module; below 1 B takes less.
        low, high: its interval; None where there are too few samples for one.
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
    """(ratio of b to a, lower, upper end of its interval at `CONFIDENCE`); the ends are None where
    the samples are too few."""
    pairs = np.sort(np.subtract.outer(np.log(b), np.log(a)).ravel())
    middle = math.exp(float(np.median(pairs)))
    outside = _outside(len(a), len(b))
    if outside == 0:
        return middle, None, None
    return middle, math.exp(pairs[outside - 1]), math.exp(pairs[-outside])


@functools.cache
def _outside(n: int, m: int) -> int:
    """How many of the n * m sorted pairs may be outside each end of the interval, the end itself
    counted: so many values of U, from 0, have together no more than half of what `CONFIDENCE`
    leaves."""
    tail = (1 - CONFIDENCE) / 2
    return bisect.bisect_right(range(n * m + 1), tail, key=lambda u: chance_of_at_most(n, m, u))


def chance_of_at_most(n: int, m: int, u: int) -> float:
    """The chance that Mann-Whitney's U of n and m samples is at most ``u`` where both sides are
    alike: scipy's exact test of samples that have this U."""
    above_all, above = divmod(u, m)
    # U counts the pairs in which a sample of the first side is above one of the second.
    second = np.arange(m, dtype=np.float64)
    counts = np.array([m] * above_all + [above] * (above_all < n) + [0] * (n - above_all - 1))
    first = counts - 0.5 + np.arange(n) / (2 * n)  # between the samples of the second, no two equal
    return float(mannwhitneyu(first, second, alternative="less", method="exact").pvalue)


def compare(a: Path, b: Path) -> tuple[list[Comparison], list[str]]:
    """Compare two JSONL files of profiles stage by stage, and list the conditions that differ.

    Configurations that both have are compared; where each file has only one, those two are, even
    if they differ.

    Raises:
        RequestError: a file that `pocketvlm profile` did not write, or nothing in common.
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
    comparisons = [comparison for one, other in pairs for comparison in _stages(one, other)]
    return comparisons, list(
        dict.fromkeys(text for one, other in pairs for text in _differences(one, other))
    )


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A row per stage and configuration, for people."""
    body = []
    for item in comparisons:
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
        # Not splitlines, which ends a line at characters that JSON has within its texts.
        text = read_text(path).removesuffix("\n")
        lines = text.split("\n") if text else []
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be read ({error})", advice="give a JSONL file of `pocketvlm profile`"
        ) from error
    by_case: dict[tuple[Any, ...], _Rows] = {}
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None:
            raise RequestError(
                f"{path} line {number} is not a row of a profile",
                advice="give a JSONL file that `pocketvlm profile` wrote",
            )
        by_case.setdefault(tuple(row[key] for key in _KEY), {})[row["stage"]] = row
    if not by_case:
        raise RequestError(
            f"{path} is empty", advice="give a JSONL file that `pocketvlm profile` wrote"
        )
    return by_case


def _row(line: str) -> Mapping[str, Any] | None:
    """The row in a line; None where keys are missing, or a sample is not a number from 0."""
    try:
        row = parse_json(line)
    except ValueError:
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
