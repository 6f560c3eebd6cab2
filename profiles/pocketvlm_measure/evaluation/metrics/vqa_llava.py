"""Knows VQA's soft accuracy as LLaVA's figures have it: the answer is normalised before it is
handed in."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.textvqa import plain
from pocketvlm_measure.evaluation.metrics.vqa import Vqa


class VqaLlava(Vqa):
    """VQA's score of the answer that LLaVA hands in (scripts/convert_vqav2_for_submission.py).

    Models write "Yes" where all annotators wrote "yes", which the authors' script calls wrong.
    LLaVA makes it "yes" first, by the steps of its TextVQA, which also make "two" a "2".
    """

    name = "vqa-llava"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """0 to 1."""
        return super().score(plain(answer), expected)
