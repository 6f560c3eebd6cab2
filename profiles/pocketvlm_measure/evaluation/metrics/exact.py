"""Knows exact match, as LLaVA scores GQA: case, spaces at the ends and full stops at the end do not
count."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric


class Exact(MeanMetric):
    """1 for an answer that is one of those expected.

    LLaVA makes the model's answer plain (scripts/convert_gqa_for_eval.py) and GQA's own eval.py
    compares it as it is. GQA's answers are plain already; here those expected are made so too.
    """

    name = "exact"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1 or 0."""
        return float(plain(answer) in map(plain, expected))


def plain(text: str) -> str:
    """Small letters, no white space at the ends, no full stops at the end."""
    return text.strip().rstrip(".").lower()
