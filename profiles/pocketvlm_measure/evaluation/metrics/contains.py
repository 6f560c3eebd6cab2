"""Knows whether an answer contains what was expected, word for word: lenient towards models that
write sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric

_WORD = re.compile(r"\w+")


class Contains(MeanMetric):
    """1 for an answer in which the words of an expected one stand, in order and together; case does
    not count.

    Words are compared, not letters: "cat" is not in "concatenate". An expected answer without a
    word, such as "?", is compared as it is.
    """

    name = "contains"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1 or 0."""
        return float(any(_contains(answer.casefold(), wanted.casefold()) for wanted in expected))


def _contains(answer: str, wanted: str) -> bool:
    found, words = _WORD.findall(answer), _WORD.findall(wanted)
    if not words:
        return wanted.strip() in answer
    return any(found[at : at + len(words)] == words for at in range(len(found) - len(words) + 1))
