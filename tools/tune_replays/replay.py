"""Knows a tuning that is replayed from a recorded grid: answers are looked up, times are drawn
around each setting's cost, and the clock counts what both would have taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm_measure.cases import Case
from pocketvlm_measure.tune.source import Scores, Taken
from pocketvlm_measure.tune.tuning import Candidate
from tune_replays.grid import Recorded

TTFT_MS = 1_000.0  # of the unpruned model
_START = 2.0  # seconds to start a process and load a model


class Replay:
    """A `Source` of recorded settings, the first of which is the baseline.

    Attributes:
        settings: the recorded setting of each candidate.
    """

    def __init__(
        self,
        settings: Sequence[Recorded],
        seed: int,
        *,
        questions: int | None = None,
        jitter: float = 0.03,
        peaks: Mapping[str, int] | None = None,
    ) -> None:
        """Shuffle the questions and draw times.

        Args:
            settings: see `Recorded`.
            seed: of the order of questions, of which are taken, and of the times.
            questions: how many are taken; None for all.
            jitter: standard deviation of the logarithm of a time.
            peaks: bytes of memory by the setting's name; 100 MB where none is given.
        """
        self._rng = np.random.default_rng(seed)
        self._order = self._rng.permutation(len(settings[0].right))[:questions]
        self._jitter, self._peaks = jitter, dict(peaks or {})
        self.settings = {_candidate(one): one for one in settings}
        self.baseline, *self.candidates = self.settings
        self.pictures: npt.NDArray[np.int64] = np.arange(len(self._order))
        self.asked: set[tuple[Candidate, int]] = set()
        self._seconds = 0.0

    def clock(self) -> float:
        """See `Source`."""
        return self._seconds

    def answer(
        self, candidates: Sequence[Candidate], questions: Sequence[int], until: float
    ) -> Scores:
        """See `Source`; an answer takes its time to first token once."""
        scores: dict[Candidate, dict[int, float]] = {one: {} for one in candidates}
        for question in questions:
            if self._seconds >= until:
                break
            for one in candidates:
                setting = self.settings[one]
                if (one, question) not in self.asked:
                    self.asked.add((one, question))
                    self._seconds += setting.cost * TTFT_MS / 1e3
                scores[one][question] = float(setting.right[self._order[question]])
        return scores

    def turn(
        self, candidates: Sequence[Candidate], number: int, until: float
    ) -> Mapping[Candidate, Taken | str]:
        """See `Source`."""
        taken: dict[Candidate, Taken | str] = {}
        for one in candidates:
            if self._seconds >= until:
                break
            setting = self.settings[one]
            drawn = TTFT_MS * setting.cost * float(np.exp(self._jitter * self._rng.normal()))
            self._seconds += _START + 2 * drawn / 1e3
            taken[one] = Taken(drawn, self._peaks.get(setting.setting, 100_000_000))
        return taken

    def subset(self, one: Candidate) -> float:
        """The accuracy of a candidate on the questions that were taken."""
        return float(self.settings[one].right[self._order].mean())


def _candidate(setting: Recorded) -> Candidate:
    return Candidate(setting.setting, Case(setting.budget, "onnx", "fp32", "fp32", threads=1))
