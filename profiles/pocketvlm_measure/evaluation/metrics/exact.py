"""Knows exact match, as LLaVA scores GQA: case, spaces at the ends and a full stop at the end do
not count."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric


class Exact(MeanMetric):
    """1 for an answer that is one of those expected."""

    name = "exact"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1 or 0."""
        return float(plain(answer) in map(plain, expected))


def plain(text: str) -> str:
    """Small letters, runs of white space as one space, no full stop at the end."""
    return " ".join(text.split()).rstrip(".").rstrip().lower()
