"""Knows the race for accuracy: the fastest candidates answer side by side, more questions each
time, until the sequential test decides or the questions end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pocketvlm_measure.tune.betting import PairedDifferences
from pocketvlm_measure.tune.source import Source
from pocketvlm_measure.tune.tuning import Candidate, TuneLimits

Decision = Literal["holds", "loses more"]

_FIRST = 20  # questions before the first look
_GROWTH = 1.35  # of the questions from one look to the next
_TOGETHER = 3  # candidates that answer side by side: a picture's features are shared
_MARGIN = 0.01  # by which one standard error may take an undecided one beyond the limit


@dataclass
class Runner:
    """One candidate in the race.

    Attributes:
        candidate: it.
        asked: questions, by the order in which they are asked.
        differences: against the baseline, of those that both answered.
        decision: of the test; None while there is none.
    """

    candidate: Candidate
    differences: PairedDifferences
    asked: int = 0
    decision: Decision | None = None
    scores: dict[int, float] = field(default_factory=dict)

    def likely_holds(self, limits: TuneLimits) -> bool:
        """Whether the estimate is within the limit, and one standard error below it is within a
        point of the limit: a few questions are not enough."""
        loss = -self.differences.mean
        return (
            self.differences.questions > 0
            and loss <= limits.loss
            and loss + self.differences.deviation <= limits.loss + _MARGIN
        )


class Race:
    """Asks candidates, the fastest first, and remembers what they answered.

    It may be run again with other entrants: what is decided stays so.

    Attributes:
        runners: of every candidate that was entered.
        baseline: scores of the baseline by question.
        error_each: the chance that the decision about one candidate is wrong.
    """

    def __init__(self, source: Source, limits: TuneLimits, entrants: Sequence[Candidate]) -> None:
        """Prepare a race of all that may ever enter; the error is split over them."""
        self._source, self._limits = source, limits
        self._pictures = source.pictures
        self._starts = np.flatnonzero(np.diff(self._pictures, prepend=-1))  # of each picture
        most = int(np.diff(self._starts, append=len(self._pictures)).max())
        self.error_each = limits.error / max(1, len(entrants))
        self.runners = {one: Runner(one, PairedDifferences(most)) for one in entrants}
        self.baseline: dict[int, float] = {}

    def run(
        self,
        entrants: Sequence[Candidate],
        until: float,
        say: Callable[[str], None] = lambda _: None,
    ) -> bool:
        """Ask ``entrants``, which come with the fastest first, until the fastest that holds is
        known; ``say`` gets a line now and then. Returns whether the time was up before."""
        runners = [self.runners[one] for one in entrants]
        while live := self._live(runners):
            if self._source.clock() >= until:
                return True
            # Those that lag behind catch up first; those that are level share each picture.
            least = min(runner.asked for runner in live)
            out = sum(runner.decision == "loses more" for runner in runners)
            say(
                f"{out} of {len(runners)} candidates lose more; asking on from question "
                f"{least + 1} of {len(self._pictures)}"
            )
            if self._ask([runner for runner in live if runner.asked == least], until):
                return bool(self._live(runners))
        return False

    def _live(self, runners: Sequence[Runner]) -> list[Runner]:
        """The fastest that are still open; none that is slower than one that is chosen anyway."""
        live: list[Runner] = []
        for runner in runners:
            done = runner.asked >= len(self._pictures)
            likely = done and not self._limits.shown and runner.likely_holds(self._limits)
            if runner.decision == "holds" or (runner.decision is None and likely):
                break
            if runner.decision is None and not done:
                live.append(runner)
        return live[:_TOGETHER]

    def _ask(self, level: Sequence[Runner], until: float) -> bool:
        """Ask runners that are level up to their next look; returns whether the time was up."""
        begin = level[0].asked
        questions = range(begin, self._next_look(begin))
        asked = [self._source.baseline, *(runner.candidate for runner in level)]
        scores = self._source.answer(asked, questions, until)
        self.baseline.update(scores[self._source.baseline])
        for runner in level:
            self._take(runner, scores[runner.candidate], questions)
        return self._source.clock() >= until

    def _take(self, runner: Runner, scores: Mapping[int, float], questions: range) -> None:
        """Count what a runner and the baseline both answered, by picture, then look."""
        runner.scores |= scores
        runner.asked = questions.stop
        both = [q for q in questions if q in scores and q in self.baseline]
        for _, of_picture in itertools.groupby(both, key=lambda q: int(self._pictures[q])):
            differences = [scores[q] - self.baseline[q] for q in of_picture]
            runner.differences.add(sum(differences), len(differences))
        if runner.differences.is_above(-self._limits.loss, self.error_each):
            runner.decision = "holds"
        elif runner.differences.is_below(-self._limits.loss, self.error_each):
            runner.decision = "loses more"

    def _next_look(self, asked: int) -> int:
        """How many questions have been asked at the next look: whole pictures, at most all."""
        least = max(_FIRST, round(_GROWTH * asked))
        later = self._starts[self._starts >= least]
        return int(later[0]) if len(later) else len(self._pictures)
