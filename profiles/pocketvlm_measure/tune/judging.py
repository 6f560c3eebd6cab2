"""Knows what the evidence says: a verdict with its reason for each candidate, and which one is
chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pocketvlm_measure.evaluation.statistics import estimate
from pocketvlm_measure.table import count
from pocketvlm_measure.tune.race import Race, Runner
from pocketvlm_measure.tune.source import Source
from pocketvlm_measure.tune.timing import Stopwatch
from pocketvlm_measure.tune.tuning import (
    UNDECIDED,
    Candidate,
    Evidence,
    Interval,
    TuneLimits,
    Tuning,
    Verdict,
)

_POINT = 0.01  # what a loss is compared with where none is allowed
_FEW = 10  # pictures, below which a spread over pictures says little


@dataclass(frozen=True)
class Judge:
    """All that was measured.

    Attributes:
        source, limits: of the tuning.
        watch: times and memory.
        race: answers.
        broken: which limit of time or memory a candidate breaks, by how much.
        time_up: the race was ended by the time.
    """

    source: Source
    limits: TuneLimits
    watch: Stopwatch
    race: Race
    broken: Mapping[Candidate, str]
    time_up: bool

    @property
    def ordered(self) -> list[Candidate]:
        """All candidates, the fastest first, those without a time last."""
        return sorted(self.source.candidates, key=self.watch.cost)

    def chosen(self) -> Candidate | None:
        """The fastest that holds, or likely holds unless it must be shown; else the baseline; None
        where all break a limit, or where the time was up before anything was compared."""
        accepted = ("holds",) if self.limits.shown else ("holds", "likely holds")
        verdicts = {self._verdict(one)[0] for one in self.ordered}
        compared = any(runner.differences.questions for runner in self.race.runners.values())
        if "not reached" in verdicts and not compared:
            return None
        return self._fastest(accepted)

    def _fastest(self, accepted: Sequence[str]) -> Candidate | None:
        baseline = self.source.baseline
        able = [one for one in self.ordered if self._verdict(one)[0] in accepted]
        if not self.broken.get(baseline):
            able.append(baseline)
        return next(iter(able), None)

    def tuning(self, chosen: Candidate | None, notes: Sequence[str] = ()) -> Tuning:
        """Everything, with the choice."""
        evidence = {one: self._evidence(one) for one in self.ordered}
        baseline = self._evidence(self.source.baseline)
        every = {**evidence, self.source.baseline: baseline}
        shown = self._fastest(("holds",))
        runners = [self.race.runners[one] for one in self.race.runners]
        return Tuning(
            limits=self.limits,
            baseline=baseline,
            evidence=list(evidence.values()),
            chosen=every[chosen] if chosen else None,
            shown=every[shown] if shown else None,
            questions=len(self.source.pictures),
            pictures=len(set(self.source.pictures.tolist())),
            answers=len(self.race.baseline) + sum(len(runner.scores) for runner in runners),
            error_each=self.race.error_each,
            seconds=self.source.clock(),
            time_up=self.time_up,
            notes=tuple(notes),
        )

    def _evidence(self, candidate: Candidate) -> Evidence:
        verdict, reason = self._verdict(candidate)
        runner = self.race.runners.get(candidate)
        scores = self.race.baseline if candidate == self.source.baseline else {}
        if runner is not None:
            scores = runner.scores
        made = partial(
            Evidence,
            candidate=candidate,
            verdict=verdict,
            reason=reason,
            questions=len(scores),
            accuracy=self._accuracy(scores),
            ttft_ms=self.watch.ttft_ms(candidate),
            ratios=self.watch.ratios(candidate),
            peak_bytes=self.watch.peak_bytes(candidate),
            excess=self._excess(candidate, verdict),
        )
        if runner is None or not runner.differences.questions:
            return made()
        needed = None
        if verdict in UNDECIDED:
            needed = runner.differences.needed(-self.limits.loss, self.race.error_each)
        return made(difference=self._difference(runner), needed=needed)

    def _excess(self, candidate: Candidate, verdict: Verdict) -> float | None:
        """See `Evidence.excess`."""
        excess = [share for share, _ in self.watch.excess(candidate, self.limits)]
        if verdict in ("loses more", "likely loses more"):
            loss = -self.race.runners[candidate].differences.mean - self.limits.loss
            excess.append(max(0.0, loss) / max(self.limits.loss, _POINT))
        return max(excess, default=None)

    def _verdict(self, candidate: Candidate) -> tuple[Verdict, str]:
        """The verdict with its reason, one sentence."""
        if candidate in self.watch.refused:
            return "refused", self.watch.refused[candidate]
        if candidate in self.broken:
            return "over a limit", self.broken[candidate]
        if candidate == self.source.baseline:
            return "baseline", "the most tokens in the most exact precisions of what is tried"
        runner = self.race.runners.get(candidate)
        if runner is None:
            return "not reached", "the time was up before it was timed"
        if runner.decision is not None:
            return runner.decision, self._decided(runner)
        if self.watch.cost(candidate) >= 1 and self.source.baseline not in self.broken:
            return "slower", "is no faster to the first token than the baseline"
        return self._open(runner)

    def _decided(self, runner: Runner) -> str:
        difference, questions = self._difference(runner), runner.differences.questions
        more = "at most" if runner.decision == "holds" else "more than"
        return (
            f"{points(difference)}: shown to lose {more} {self.limits.max_loss:g} points "
            f"by {count(questions, 'question')}"
        )

    def _open(self, runner: Runner) -> tuple[Verdict, str]:
        """The verdict of one that the test has not decided."""
        finished = runner.asked >= len(self.source.pictures)
        if not finished and not self.time_up:
            return "slower", "is slower to the first token than one that is accurate enough"
        if not runner.differences.questions:
            return "not reached", "the time was up before it was asked"
        verdict: Verdict = "undecided"
        if runner.likely_holds(self.limits):
            verdict = "likely holds"
        elif -runner.differences.mean > self.limits.loss:
            verdict = "likely loses more"
        return verdict, f"{points(self._difference(runner))}: {self._unsure(runner, verdict)}"

    def _unsure(self, runner: Runner, verdict: Verdict) -> str:
        """Why the test has not decided, and what would."""
        questions = runner.differences.questions
        pictures = len(np.unique(self.source.pictures[list(runner.scores)]))
        if verdict == "undecided" and pictures < _FEW:
            are = "is" if pictures == 1 else "are"
            return f"{count(pictures, 'picture')} {are} too few to estimate an error"
        needed = runner.differences.needed(-self.limits.loss, self.race.error_each)
        if needed is None:
            return (
                f"the estimate is too close to the {self.limits.max_loss:g}-point limit to decide"
            )
        return f"{count(questions, 'question')} did not decide, about {needed} would"

    def _difference(self, runner: Runner) -> Interval:
        return Interval(runner.differences.mean, *runner.differences.bounds(self.race.error_each))

    def _accuracy(self, scores: Mapping[int, float]) -> Interval | None:
        """The mean score with its 95 % interval over pictures."""
        if not scores:
            return None
        questions = np.fromiter(scores, dtype=np.int64)
        parts = np.array([(score, 1.0) for score in scores.values()])
        (figure,) = estimate(
            parts, self.source.pictures[questions], lambda sums: sums[..., :1] / sums[..., 1:]
        )
        return Interval(figure.value, figure.low, figure.high)


def points(difference: Interval) -> str:
    """A difference with its interval, in points: ``-0.8 points [-1.9, +0.4]``."""
    value, low, high = (100 * end for end in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"
