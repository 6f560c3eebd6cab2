"""Knows whether an answer contains what was expected, word for word: lenient towards models that
write sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric

_WORD = re.compile(r"\w+")


class Contains(MeanMetric):
    """1 for an answer that has the words of an expected one, in order and together; case does not
    count.

    Words are compared, not letters: "cat" is not in "concatenate". An expected answer without a
    word, such as "?", is compared as it is.
    """

    name = "contains"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1 or 0."""
        return float(any(_contains(answer.casefold(), text.casefold()) for text in expected))


def _contains(answer: str, expected: str) -> bool:
    words, part = _WORD.findall(answer), _WORD.findall(expected)
    if not part:
        return expected.strip() in answer
    return any(words[at : at + len(part)] == part for at in range(len(words) - len(part) + 1))
