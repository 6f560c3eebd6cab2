"""Knows TextVQA's accuracy: VQA's, with both sides normalised and a little more, as LLaVA and
Pythia score it."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric
from pocketvlm_measure.evaluation.metrics.vqa import agreement, too_few
from pocketvlm_measure.evaluation.metrics.vqa_text import normalise


class TextVqa(MeanMetric):
    """See `pocketvlm_measure.evaluation.metrics.vqa.Vqa`."""

    name = "textvqa"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """0 to 1."""
        return agreement(_plain(answer), list(map(_plain, expected)))

    def refusal(self, expected: Sequence[str]) -> str | None:
        """As for VQA."""
        return too_few(self.name, expected)


def _plain(text: str) -> str:
    """Commas and question marks go before all else, and a possessive becomes a word of its own."""
    return normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())
