"""Knows where candidates, answers and times come from: a seam, so that a recorded grid drives the
same search as a machine does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm_measure.tune.tuning import Candidate

Scores = Mapping[Candidate, Mapping[int, float]]  # by question: 0 (wrong) to 1 (right)


@dataclass(frozen=True)
class Taken:
    """One run of a candidate in a process of its own.

    Attributes:
        ttft_ms: milliseconds to the first token.
        peak_bytes: of the process; None where the system does not count it.
    """

    ttft_ms: float
    peak_bytes: int | None


class Source(Protocol):
    """What is tuned, and what measures it.

    Questions go by their index in the order in which they are asked, which is the same in every
    run about one set: shuffled, with those about one picture beside each other.
    """

    @property
    def baseline(self) -> Candidate:
        """What all are compared with: the most tokens in the most exact precisions."""
        ...

    @property
    def candidates(self) -> Sequence[Candidate]:
        """All others, in no order. They are fixed before anything is measured."""
        ...

    @property
    def pictures(self) -> npt.NDArray[np.int64]:
        """int64 (questions,): a number for each question's picture; questions about the same one
        share it, and lie beside each other."""
        ...

    def clock(self) -> float:
        """Seconds since the tuning began."""
        ...

    def answer(
        self, candidates: Sequence[Candidate], questions: Sequence[int], until: float
    ) -> Scores:
        """Have candidates answer questions; what was answered before costs nothing.

        Args:
            candidates: which; the features of a picture are shared between their budgets.
            questions: indices.
            until: no further question is asked once the clock says so.

        Returns:
            The scores of each candidate that was asked; of fewer questions where the time was up,
            or where one was refused and is to be skipped.
        """
        ...

    def turn(
        self, candidates: Sequence[Candidate], number: int, until: float
    ) -> Mapping[Candidate, Taken | str]:
        """Run each candidate once, in a turn that begins with another one each time.

        Args:
            candidates: which, the baseline among them.
            number: of the turn, from 0. A turn that was taken before is not taken again.
            until: no further run begins once the clock says so.

        Returns:
            What each took, or why it cannot run; fewer where the time was up.
        """
        ...
