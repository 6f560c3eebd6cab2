"""Knows what a tuning is: what is tried, within which limits, the evidence for each, the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from pocketvlm.errors import RequestError
from pocketvlm.limits import real, settle_numbers
from pocketvlm_measure.cases import Case

Verdict = Literal[
    "baseline",
    "holds",
    "likely holds",
    "loses more",
    "likely loses more",
    "undecided",
    "over a limit",
    "slower",
    "refused",
    "not reached",
]
VERDICTS: dict[Verdict, str] = {
    "baseline": "what the others are compared with: it loses nothing by definition",
    "holds": "shown to lose at most max_loss",
    "likely holds": "the questions do not decide; the estimate is within max_loss",
    "loses more": "shown to lose more than max_loss",
    "likely loses more": "the questions do not decide; the estimate is beyond max_loss",
    "undecided": "the questions do not decide, and are too few to go by the estimate",
    "over a limit": "takes more time or memory than allowed",
    "slower": "slower to the first token than one that holds, so it was not asked further",
    "refused": "could not be measured",
    "not reached": "the time was up before enough was known",
}
UNDECIDED: tuple[Verdict, ...] = ("likely holds", "likely loses more", "undecided")


@dataclass(frozen=True)
class Candidate:
    """One way to answer that may be chosen.

    Attributes:
        folder: of the artifact that answers, absolute.
        case: budget, decoder, precisions, threads and caps on pictures.
        made_by: options of the export that makes the folder, (option, value) pairs in the order of
            the command line, such as ``("--pruner", "scope")``; empty where the folder was given.
    """

    folder: str
    case: Case
    made_by: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """For people: export options, then the case with its caps."""
        made = " ".join(part for pair in self.made_by for part in pair)
        caps = [
            f"{name.removeprefix('max_')} at most {value}"
            for name in ("max_pixels", "max_tiles")
            if (value := getattr(self.case, name)) is not None
        ]
        return ", ".join(part for part in (made, str(self.case), *caps) if part)


@dataclass(frozen=True)
class TuneLimits:
    """What the chosen candidate must keep to, and how sure decisions are.

    Attributes:
        max_loss: points (of 100) of accuracy that may be lost against the baseline.
        max_ttft: milliseconds to the first token, which no run may exceed; None means no limit.
        max_memory: MB (10^6 bytes) of peak memory, likewise.
        time: seconds that the whole tuning may take; what is begun is finished.
        error: the chance, at most, that any accuracy decision of the whole tuning ("holds" or
            "loses more") is wrong; split equally over the candidates that are asked.
        shown: choose only what is shown to hold, never what likely holds.
    """

    max_loss: float = 2.0
    max_ttft: float | None = None
    max_memory: float | None = None
    time: float = 600.0
    error: float = 0.05
    shown: bool = False

    def __post_init__(self) -> None:
        settle_numbers(self)
        for name in ("max_loss", "max_ttft", "max_memory", "time", "error"):
            if (value := getattr(self, name)) is not None:
                real(value, name, least=0)
        if not 0 < self.error < 1:
            raise RequestError(f"error {self.error}", expected="between 0 and 1", setting="error")

    @property
    def loss(self) -> float:
        """``max_loss`` as a fraction, as differences are."""
        return self.max_loss / 100


@dataclass(frozen=True)
class Interval:
    """A figure, a fraction, with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What is known of one candidate.

    Attributes:
        candidate: it.
        verdict: see `VERDICTS`.
        reason: of the verdict, one sentence.
        questions: how many it answered, the baseline too.
        accuracy: share of right answers with a 95 % interval over pictures; None where nothing was
            asked.
        difference: accuracy less the baseline's on the same questions, 1 is all. Each end is wrong
            with a chance of at most ``Tuning.error_each``, whenever one looks.
        ttft_ms: milliseconds to the first token of each run, in the order of turns.
        ratios: of each turn, the time by the baseline's in the same turn.
        peak_bytes: peak memory of each run; empty where the system does not count it.
        needed: questions in all, like those that were asked, that would decide an undecided one;
            None where it is decided or no number would do.
        excess: share of a limit by which it is exceeded, of the one that is broken most (a loss by
            an estimate too); None where none is.
    """

    candidate: Candidate
    verdict: Verdict
    reason: str
    questions: int = 0
    accuracy: Interval | None = None
    difference: Interval | None = None
    ttft_ms: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    peak_bytes: tuple[int, ...] = ()
    needed: int | None = None
    excess: float | None = None

    @property
    def ratio(self) -> float | None:
        """Median of the ratios: its time to first token by the baseline's; None where it was
        not timed."""
        return median(self.ratios) if self.ratios else None


@dataclass(frozen=True)
class Tuning:
    """A finished tuning.

    Attributes:
        limits: it kept to.
        baseline: the evidence for what all others are compared with.
        evidence: for every other candidate, the fastest first, those without a time last.
        chosen: of these or the baseline; None where nothing satisfies the limits.
        shown: the fastest that is shown to hold and breaks no limit: ``chosen`` itself, or what to
            take where "likely" is not enough; None where there is none.
        questions, pictures: of the whole set.
        answers: given in all, those of the baseline counted.
        error_each: `TuneLimits.error` split over the candidates that were asked.
        seconds: taken, those of an earlier run that was resumed not counted.
        time_up: it ended because its time was over.
        notes: what else to know, a sentence each.
        figure: what ``accuracy`` and ``difference`` are of, by its name for people: accuracy, or
            where there are no answers agreement with the baseline.
        pruned: visual tokens are dropped in the baseline too.
    """

    limits: TuneLimits
    baseline: Evidence
    evidence: Sequence[Evidence]
    chosen: Evidence | None
    shown: Evidence | None
    questions: int
    pictures: int
    answers: int
    error_each: float
    seconds: float
    time_up: bool
    notes: Sequence[str] = field(default=())
    figure: str = "accuracy"
    pruned: bool = False

    @property
    def nearest(self) -> Evidence | None:
        """Of those that break a limit the one that does so by the least; None where none does."""
        broken = [one for one in (self.baseline, *self.evidence) if one.excess is not None]
        return min(broken, key=lambda one: one.excess or 0.0, default=None)

    @property
    def undecided(self) -> list[Evidence]:
        """Candidates that the questions did not decide."""
        return [one for one in self.evidence if one.verdict in UNDECIDED]

    @property
    def ruled_out(self) -> list[Evidence]:
        """Candidates that cannot be chosen, each with its reason."""
        return [
            one
            for one in self.evidence
            if one.verdict not in ("holds", "likely holds", "slower", "not reached")
        ]
