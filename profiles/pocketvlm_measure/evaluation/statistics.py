"""Knows how sure a figure is: bootstrap intervals over pictures, paired differences, McNemar's
exact test.

Questions about one picture fail together, so pictures are drawn, not questions (the cluster
bootstrap: Davison & Hinkley 1997, *Bootstrap Methods and their Application*, section 3.8;
percentile intervals, section 5.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

Numbers = npt.NDArray[np.float64]
Combine = Callable[[Numbers], Numbers]  # sums (..., parts) to figures (..., figures)

CONFIDENCE = 0.95
DRAWS = 2_000
SEED = 0  # of the draws: every case has the same pictures drawn in the same order
_AT_ONCE = 4_000_000  # numbers of a block of draws, which bounds memory


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; the ends are NaN where the figure is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A case against its baseline, on the questions that both answered.

    Attributes:
        estimate: the headline figure of the case less that of the baseline.
        only_here, only_there: questions that one answered rightly and the other did not.
        p: two-sided, of McNemar's exact test on these.
        questions: how many both answered.
    """

    estimate: Estimate
    only_here: int
    only_there: int
    p: float
    questions: int


def estimate(parts: Numbers, pictures: npt.NDArray[np.int64], combine: Combine) -> list[Estimate]:
    """Each figure of many answers with its interval.

    Args:
        parts: (questions, parts), see `Metric.parts`.
        pictures: (questions,), a number for each picture; questions about the same one share it.
        combine: see `Metric.combine`.

    Returns:
        One estimate per figure. Where all pictures have the same score of 0 or 1, no draw can
        differ: there the interval is the exact one of a proportion (Clopper & Pearson 1934), with
        the pictures as trials.
    """
    sums = _by_picture(parts, pictures)
    values = combine(sums.sum(axis=0))
    draws = combine(np.concatenate(list(_resampled(sums))))  # (draws, figures)
    estimates = []
    for value, drawn in zip(values, draws.T, strict=True):
        low, high = _percentiles(drawn)
        if low == high and value in (0.0, 1.0):
            trials = len(sums)
            exact = binomtest(trials if value else 0, trials).proportion_ci(CONFIDENCE, "exact")
            low, high = float(exact.low), float(exact.high)
        estimates.append(Estimate(float(value), low, high))
    return estimates


def difference(
    here: Numbers,
    there: Numbers,
    pictures: npt.NDArray[np.int64],
    combine: Combine,
    right: Callable[[Sequence[float]], bool],
) -> Difference:
    """One case less another, on the same questions in the same order; see `estimate` for the
    arguments."""
    sums = _by_picture(np.concatenate([here, there], axis=1), pictures)
    width = here.shape[1]

    def less(both: Numbers) -> Numbers:
        return combine(both[..., :width])[..., 0] - combine(both[..., width:])[..., 0]

    drawn = less(np.concatenate(list(_resampled(sums))))
    ours, theirs = (np.array([right(row) for row in rows], dtype=bool) for rows in (here, there))
    only_here, only_there = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    headline = Estimate(float(less(sums.sum(axis=0))), *_percentiles(drawn))
    return Difference(headline, only_here, only_there, mcnemar(only_here, only_there), len(here))


def mcnemar(only_here: int, only_there: int) -> float:
    """Two-sided p of McNemar's exact test: each of the questions that only one side answered
    rightly is a fair coin (McNemar 1947; the exact form is a sign test). 1 where there is none."""
    count = only_here + only_there
    return float(binomtest(only_here, count).pvalue) if count else 1.0


def numbered(keys: Sequence[object]) -> npt.NDArray[np.int64]:
    """A number for each different key, in order of appearance: int64 (len(keys),)."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _by_picture(parts: Numbers, pictures: npt.NDArray[np.int64]) -> Numbers:
    """Sums of the parts of each picture's questions, (pictures, parts)."""
    numbers = numbered(pictures.tolist())
    sums = np.zeros((int(numbers.max()) + 1, parts.shape[1]))
    np.add.at(sums, numbers, parts)
    return sums


def _resampled(sums: Numbers) -> Iterator[Numbers]:
    """Sums over as many pictures as there are, drawn with replacement: blocks of (draws, parts)."""
    rng = np.random.default_rng(SEED)
    count = len(sums)
    block = max(1, _AT_ONCE // (count * sums.shape[1]))
    for start in range(0, DRAWS, block):
        drawn = rng.integers(count, size=(min(block, DRAWS - start), count))
        yield sums[drawn].sum(axis=1)


def _percentiles(drawn: Numbers) -> tuple[float, float]:
    """The interval's ends; draws without a figure (F1 without a single yes) are left out."""
    figures = drawn[~np.isnan(drawn)]
    if not len(figures):
        return float("nan"), float("nan")
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(figures, [tail, 100 - tail])
    return float(low), float(high)
