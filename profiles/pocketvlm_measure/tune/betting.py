"""Knows how sure a mean difference is at any time, however often one looks: a test by betting.

For every mean m a gambler bets against "the true mean is at most m" with some share of the capital
at each observation. If the statement is true the capital is a nonnegative supermartingale from 1,
so it ever reaches 1/error with a chance of at most ``error`` (Ville 1939). Where it does, m is
ruled out. The bound is the largest m that is (Waudby-Smith & Ramdas 2023, *Estimating means of
bounded random variables by betting*). Which share is best depends on the variance, so the capital
is spread over a few shares for good (their diversified Kelly bets). The result depends on the
observations alone, not on their order or on when one looked.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_SHARES: Numbers = 0.95 * 0.72 ** np.arange(16, dtype=np.float64)  # of what may be bet: to 0.007
_HALVINGS = 40  # of the interval in which a bound is searched
_MOST_TIMES = 1_000.0  # more data than that is "never"


class PairedDifferences:
    """Differences of two on the same questions, and what they show about the mean difference.

    Questions about one picture fail together, so a picture is one observation: the sum of its
    differences, and how many they are. The mean is over questions: the expected sum of a picture by
    its expected number of questions. Pictures are taken as drawn independently; in what order does
    not matter.

    Attributes:
        questions: how many have been added.
    """

    def __init__(self, most: int = 1) -> None:
        """Begin without observations; ``most`` questions about one picture at most."""
        self._most = most
        self._pictures: Counter[tuple[float, int]] = Counter()
        self.questions = 0

    def add(self, total: float, count: int, repeats: int = 1) -> None:
        """A picture: the ``total`` of its questions' differences, each from -1 to 1, and the
        ``count`` of these questions, at most ``most``; or ``repeats`` such pictures."""
        if not 1 <= count <= self._most or abs(total) > count:
            raise ValueError(f"{total} from {count} questions")
        if repeats:
            self._pictures[total, count] += repeats
            self.questions += count * repeats

    @property
    def mean(self) -> float:
        """The mean difference so far; 0 of none."""
        total = sum(total * repeats for (total, _), repeats in self._pictures.items())
        return total / max(1, self.questions)

    @property
    def deviation(self) -> float:
        """The standard error of the mean over pictures, as if there were two more: one question
        each, all won and all lost. Without them it would be 0 where nothing has differed yet."""
        mean = self.mean
        squares = sum(
            repeats * (total - mean * count) ** 2
            for (total, count), repeats in self._pictures.items()
        )
        return math.sqrt(squares + 2) / max(1, self.questions)

    def is_above(self, mean: float, error: float) -> bool:
        """Whether the true mean is shown to be above ``mean``: wrong with a chance of at most
        ``error`` over all looks together."""
        return _log_mean(self._log_capital(mean, 1)) >= -math.log(error)

    def is_below(self, mean: float, error: float) -> bool:
        """Likewise below."""
        return _log_mean(self._log_capital(mean, -1)) >= -math.log(error)

    def bounds(self, error: float) -> tuple[float, float]:
        """(low, high) of the mean, -1 to 1; each end is wrong with a chance of at most ``error``
        over all looks together."""
        return self._bound(error, 1), -self._bound(error, -1)

    def needed(self, mean: float, error: float) -> int | None:
        """Questions in all that would show on which side of ``mean`` the true mean is, if more came
        that differ as these do; None for over a thousand times as many, or where there are none."""
        if not self.questions:
            return None
        times = min(
            _times_until(self._log_capital(mean, side), -math.log(error)) for side in (1, -1)
        )
        return math.ceil(times * self.questions) if times <= _MOST_TIMES else None

    def _bound(self, error: float, side: int) -> float:
        """The largest mean that is ruled out from below; of the mirrored differences for -1."""
        low, high = -1.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            # The capital falls as the mean rises, whatever was observed.
            if _log_mean(self._log_capital(side * middle, side)) >= -math.log(error):
                low = middle
            else:
                high = middle
        return low

    def _log_capital(self, mean: float, side: int) -> Numbers:
        """(shares,): logarithm of the capital of each share bet against a true mean of at most
        ``mean``; of at least that for ``side`` -1."""
        observed = np.array(list(self._pictures), dtype=np.float64).reshape(-1, 2)
        repeats = np.fromiter(self._pictures.values(), dtype=np.float64)
        gains = side * (observed[:, 0] - mean * observed[:, 1])
        # What is lost at most is most * (1 + mean): all of the share.
        stake = _SHARES / (self._most * max(1 + side * mean, 1e-12))
        with np.errstate(divide="ignore"):
            logs: Numbers = np.log1p(np.maximum(-1.0, np.outer(stake, gains)))
        return logs @ repeats


def _log_mean(logs: Numbers) -> float:
    """The logarithm of the mean of what these are the logarithms of."""
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean())) if top > -math.inf else top


def _times_until(logs: Numbers, least: float) -> float:
    """How many times the data must be repeated until the capital's logarithm is at ``least``."""
    if logs.max() <= 0:
        return math.inf
    low, high = 0.0, 2 * _MOST_TIMES
    if _log_mean(high * logs) < least:
        return math.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _log_mean(middle * logs) >= least else (middle, high)
    return high
