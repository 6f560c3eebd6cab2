"""Knows VQA's soft accuracy (Antol et al. 2015, arXiv 1505.00468, section 5; averaged over
annotators as in VQA v2), as its authors' script computes it."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvlm_measure.evaluation.metrics.base import MeanMetric
from pocketvlm_measure.evaluation.metrics.vqa_text import normalise, on_one_line

_AGREEING = 3  # annotators that make an answer wholly right
_FEWEST = _AGREEING + 1  # one of them being left out at a time


class Vqa(MeanMetric):
    """min(1, annotators who gave the same answer / 3), the mean over leaving out each annotator.

    The steps are those of the authors' script since 2021 (vqaEval.py, github.com/GT-Vision-Lab/VQA,
    commit a013f00). Where annotators differ, their answers and the one that is scored are
    normalised. Where all gave the same answer, nothing is: "two" is right where all wrote "two",
    and "2" or "Two" is not. The script before it normalised the scored answer alone.
    """

    name = "vqa"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """0 to 1."""
        answer, *annotators = map(on_one_line, [answer, *expected])
        if len(set(annotators)) > 1:
            answer, *annotators = map(normalise, [answer, *annotators])
        return agreement(answer, annotators)

    def refusal(self, expected: Sequence[str]) -> str | None:
        """One answer of each annotator is needed."""
        return too_few(self.name, expected)


def agreement(answer: str, annotators: Sequence[str]) -> float:
    """The soft accuracy of texts that have been made comparable."""
    # Leaving out one who agrees leaves one fewer; there are `same` such ways of all.
    count, same = len(annotators), sum(text == answer for text in annotators)
    return (
        same * min(1, (same - 1) / _AGREEING) + (count - same) * min(1, same / _AGREEING)
    ) / count


def too_few(name: str, expected: Sequence[str]) -> str | None:
    """Why so many answers are not enough; None if they are."""
    if len(expected) >= _FEWEST:
        return None
    return (
        f"metric {name} expects the answers of at least {_FEWEST} annotators, this has "
        f"{len(expected)}: use exact"
    )
