"""Knows ANLS, the score of DocVQA and ST-VQA (Biten et al. 2019, arXiv 1905.13648, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric

_THRESHOLD = 0.5  # tau: what is further off is no misspelling but another answer


class Anls(MeanMetric):
    """1 - NL(answer, expected) where the normalised Levenshtein distance NL is at most 0.5, else 0;
    the best counts.

    Case and runs of spaces do not count. The paper says below 0.5; the authors' scorer keeps 0.5
    itself, and so does this.
    """

    name = "anls"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """0, or 0.5 to 1."""
        return max(_similarity(_plain(answer), _plain(text)) for text in expected)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(answer: str, expected: str) -> float:
    longest = max(len(answer), len(expected))
    distance = edit_distance(answer, expected) / longest if longest else 0.0
    return 1 - distance if distance <= _THRESHOLD else 0.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements of a character that turn
    ``a`` into ``b``."""
    # Written out: answers are a few words, for which a compiled package would be one more to ship.
    row = list(range(len(b) + 1))
    for i, of_a in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, of_b in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (of_a != of_b))
    return row[-1]
