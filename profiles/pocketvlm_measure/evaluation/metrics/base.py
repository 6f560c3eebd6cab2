"""Knows what a metric is: numbers of each answer that add up, and what the sums mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


class Metric(ABC):
    """Scores answers one by one; figures of many are made of sums, so that they can be resampled.

    Attributes:
        name: as the command line calls it.
        figures: the names of its figures of many answers; the first is the one that is compared.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]

    @abstractmethod
    def parts(self, answer: str, expected: Sequence[str]) -> tuple[float, ...]:
        """The numbers of one answer, to be added up over all."""

    @abstractmethod
    def combine(self, sums: Numbers) -> Numbers:
        """The figures, 0 to 1, (..., figures), of sums of `parts`, (..., parts); NaN where they are
        undefined."""

    @abstractmethod
    def is_right(self, parts: Sequence[float]) -> bool:
        """Whether these parts are those of a right answer, for statistical tests that know only
        right and wrong."""

    def refusal(self, expected: Sequence[str]) -> str | None:
        """Why a question with these expected answers cannot be scored; None if it can."""
        return None


class MeanMetric(Metric):
    """A score from 0 to 1 for each answer; the figure is their mean. An answer with at least half
    counts as right."""

    figures = ("accuracy",)

    @abstractmethod
    def score(self, answer: str, expected: Sequence[str]) -> float:
        """The score of one answer."""

    def parts(self, answer: str, expected: Sequence[str]) -> tuple[float, ...]:
        """(score, 1)."""
        return self.score(answer, expected), 1.0

    def combine(self, sums: Numbers) -> Numbers:
        """The mean, (..., 1)."""
        return ratio(sums[..., :1], sums[..., 1:])

    def is_right(self, parts: Sequence[float]) -> bool:
        """At least half of the score."""
        return parts[0] >= 0.5


def ratio(part: Numbers, whole: Numbers) -> Numbers:
    """``part / whole``, NaN where ``whole`` is zero."""
    return np.divide(
        part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0
    )
