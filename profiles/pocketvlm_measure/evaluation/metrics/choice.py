"""Knows multiple choice, as LLaVA's evaluation of ScienceQA reads a letter off an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric

_LETTERS = frozenset("ABCDE")
# The script's pattern: what follows the letter may be any character, but there must be one.
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


class Choice(MeanMetric):
    """1 for the expected letter A to E, as LLaVA's llava/eval/eval_science_qa.py reads it.

    An answer names a letter by being it, by beginning with it and ". ", or by having "The answer
    is", the letter and one more character exactly once; two such sentences name none.
    """

    name = "choice"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1 or 0."""
        return float(_letter(answer) in expected)

    def refusal(self, expected: Sequence[str]) -> str | None:
        """Expected answers are letters."""
        if _LETTERS.issuperset(expected):
            return None
        return "metric choice expects one of the letters A to E as the answer"


def _letter(answer: str) -> str | None:
    """The letter that an answer names; None where it names none."""
    if answer[:1] in _LETTERS and (len(answer) == 1 or answer[1:3] == ". "):
        return answer[0]
    letters = _SENTENCE.findall(answer)
    return letters[0] if len(letters) == 1 else None
