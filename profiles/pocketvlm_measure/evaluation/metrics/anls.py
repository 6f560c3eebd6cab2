"""Knows ANLS, the score of DocVQA and ST-VQA (Biten et al. 2019, arXiv 1905.13648, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric

_THRESHOLD = 0.5  # what is less alike is not a misspelling but another answer


class Anls(MeanMetric):
    """1 - distance / length of the expected answer that comes nearest, 0 where that is below 0.5.

    As the authors' scorer has it, that of the Robust Reading Competition (rrc.cvc.uab.es). The
    distance is Levenshtein's of small letters, runs of white space being one space. The length is
    the longer one's as written, every space counted, in capitals ("ß" has two). The paper gives 0
    to 0.5 itself; the scorer keeps it.
    """

    name = "anls"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """0, or 0.5 to 1."""
        likeness = 1 - min(_distance(answer, text) for text in expected)
        return likeness if likeness >= _THRESHOLD else 0.0


def _distance(answer: str, expected: str) -> float:
    length = max(len(answer.upper()), len(expected.upper()))
    return edit_distance(_plain(answer), _plain(expected)) / length if length else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


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
