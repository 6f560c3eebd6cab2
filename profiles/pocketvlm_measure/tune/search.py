"""Knows how a tuning goes: time and memory first, then the race for accuracy, then the chosen one
is timed again, and the next one is taken where that breaks a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pocketvlm_measure.table import count
from pocketvlm_measure.tune.judging import Judge
from pocketvlm_measure.tune.race import Race
from pocketvlm_measure.tune.source import Source
from pocketvlm_measure.tune.timing import CONFIRMING, TURNS, Stopwatch
from pocketvlm_measure.tune.tuning import Candidate, TuneLimits, Tuning

_FIRST_TURN = 0.6  # of the time, that the first turn may take at most
_TIMING = 0.4  # after which no further turn of all begins
_RESERVE = 0.1  # kept for timing the chosen one again

Say = Callable[[str], None]


@dataclass
class _Search:
    source: Source
    limits: TuneLimits
    say: Say
    watch: Stopwatch = field(init=False)
    broken: dict[Candidate, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = Stopwatch(self.source)

    def time_all(self) -> list[Candidate]:
        """A few turns of all; returns those that may be chosen, the fastest first."""
        time, live = self.limits.time, list(self.source.candidates)
        for number in range(TURNS):
            if number and (self.source.clock() >= _TIMING * time or not live):
                break
            others = count(len(live), "candidate")
            self.say(f"turn {number + 1} of {TURNS}: timing {others} and the baseline")
            self.watch.take(live, (_TIMING if number else _FIRST_TURN) * time)
            self.mark([self.source.baseline, *live])
            live = [one for one in live if one not in self.broken | self.watch.refused]
        timed = [one for one in live if self.watch.ratios(one)]
        return sorted(timed, key=lambda one: (self.watch.cost(one), one.case.budget))

    def was_run(self, candidate: Candidate) -> bool:
        """Whether the time was enough for its first turn."""
        return bool(self.watch.ttft_ms(candidate)) or candidate in self.watch.refused

    def mark(self, candidates: Sequence[Candidate]) -> None:
        """Note which candidates break a limit of time or memory."""
        for candidate in candidates:
            if reason := self.watch.broken(candidate, self.limits):
                self.broken[candidate] = reason

    def entrants(self, ordered: Sequence[Candidate]) -> list[Candidate]:
        """Those that are worth asking: nothing that is slower than the baseline, where that may be
        chosen itself, since it loses nothing."""
        able = self.source.baseline not in self.broken
        return [
            one
            for one in ordered
            if one not in self.broken | self.watch.refused
            and not (able and self.watch.cost(one) >= 1)
        ]

    def confirm(self, chosen: Candidate) -> bool:
        """Time the chosen one again; returns whether it keeps to the limits."""
        if self.limits.max_ttft is None and self.limits.max_memory is None:
            return True
        self.say(f"timing the choice again: {chosen}")
        others = [] if chosen == self.source.baseline else [chosen]
        for number in range(CONFIRMING):
            if self.source.clock() >= self.limits.time:
                again = f"{count(number, 'time')} only" if number else "not"
                self.notes.append(
                    f"the time was up: the choice was timed again {again}, of {CONFIRMING} times"
                )
                break
            self.watch.take(others, self.limits.time)
            self.mark([chosen, self.source.baseline])
            if chosen in self.broken or chosen in self.watch.refused:
                return False
        return True


def tune(
    source: Source,
    limits: TuneLimits,
    say: Say = lambda _: None,
    notes: Sequence[str] = (),
) -> Tuning:
    """Find the candidate that is fastest to the first token and keeps to the limits.

    Args:
        source: candidates, and what measures them.
        limits: what the chosen one must keep to.
        say: gets a line on what is done next.
        notes: what else the result should say.

    Returns:
        What was tried and chosen. Where the time was up early it is made of what was measured.

    Raises:
        PocketVLMError: the baseline cannot run, or what the source refuses.
    """
    search = _Search(source, limits, say)
    ordered = search.time_all()
    race = Race(source, limits, ordered)
    while True:
        entrants = search.entrants(ordered)
        say(f"asking {count(len(entrants), 'candidate')} and the baseline")
        time_up = race.run(entrants, (1 - _RESERVE) * limits.time, say)
        time_up |= not all(map(search.was_run, source.candidates))
        judge = Judge(source, limits, search.watch, race, search.broken, time_up)
        chosen = judge.chosen()
        if chosen is None or search.confirm(chosen):
            return judge.tuning(chosen, [*notes, *search.notes])
