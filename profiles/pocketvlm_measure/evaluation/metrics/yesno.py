"""Knows POPE's figures (Li et al. 2023, arXiv 2305.10355, section 5.1): yes-or-no questions, yes
being positive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pocketvlm_measure.evaluation.metrics.base import Metric, Numbers, ratio

_NO = frozenset({"No", "no", "not"})


class YesNo(Metric):
    """F1, precision, recall, accuracy, and the share of answers that say yes.

    As POPE's authors read an answer: it means no where "No", "no" or "not" is a word of its first
    sentence, else yes.
    """

    name = "yesno-f1"
    figures = ("f1", "precision", "recall", "accuracy", "yes")

    def parts(self, answer: str, expected: Sequence[str]) -> tuple[float, ...]:
        """(true positives, false positives, true negatives, false negatives) of this answer: one of
        them is 1."""
        pair = (says_yes(answer), _is_yes(expected))
        outcomes = ((True, True), (True, False), (False, False), (False, True))
        return tuple(float(pair == outcome) for outcome in outcomes)

    def combine(self, sums: Numbers) -> Numbers:
        """The five figures, (..., 5)."""
        tp, fp, tn, fn = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
        total = tp + fp + tn + fn
        shares = [
            (2 * tp, 2 * tp + fp + fn),
            (tp, tp + fp),
            (tp, tp + fn),
            (tp + tn, total),
            (tp + fp, total),
        ]
        return np.stack([ratio(part, whole) for part, whole in shares], axis=-1)

    def is_right(self, parts: Sequence[float]) -> bool:
        """A true positive or a true negative."""
        return bool(parts[0] or parts[2])

    def refusal(self, expected: Sequence[str]) -> str | None:
        """Expected is yes or no."""
        if {text.strip().lower() for text in expected} in ({"yes"}, {"no"}):
            return None
        return "metric yesno-f1 expects the answer yes or the answer no"


def says_yes(answer: str) -> bool:
    """Whether POPE's authors count an answer as yes."""
    first = answer.split(".", 1)[0].replace(",", "")
    return not _NO & set(first.split(" "))


def _is_yes(expected: Sequence[str]) -> bool:
    return expected[0].strip().lower() == "yes"
