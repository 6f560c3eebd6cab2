"""Knows TextVQA's accuracy: VQA's, with both sides always normalised and a little more, as LLaVA
(llava/eval/m4c_evaluator.py) and Pythia before it score it."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric
from pocketvlm_measure.evaluation.metrics.vqa import agreement, too_few
from pocketvlm_measure.evaluation.metrics.vqa_text import normalise


class TextVqa(MeanMetric):
    """See `pocketvlm_measure.evaluation.metrics.vqa.Vqa`. That script takes ten annotators only,
    this four or more."""

    name = "textvqa"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """0 to 1."""
        return agreement(plain(answer), list(map(plain, expected)))

    def refusal(self, expected: Sequence[str]) -> str | None:
        """As for VQA."""
        return too_few(self.name, expected)


def plain(text: str) -> str:
    """A text as LLaVA normalises it: VQA's steps after commas and question marks have gone and a
    possessive has become a word of its own."""
    return normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())
