"""Knows multiple choice, as LLaVA's evaluation of ScienceQA reads a letter off an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric

_LETTER = re.compile(r"([A-E])")
_FIRST = re.compile(r"([A-E])\. ")
_SENTENCE = re.compile(r"The answer is ([A-E])")


class Choice(MeanMetric):
    """1 for the expected letter A to E: by itself, before ". " at the beginning, or after "The
    answer is"."""

    name = "choice"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1 or 0."""
        text = answer.strip().replace("\n", ". ")
        match = _LETTER.fullmatch(text) or _FIRST.match(text) or _SENTENCE.search(text)
        return float(match is not None and match[1] in expected)

    def refusal(self, expected: Sequence[str]) -> str | None:
        """Expected answers are letters."""
        if all(_LETTER.fullmatch(letter) for letter in expected):
            return None
        return "metric choice expects one of the letters A to E as the answer"
