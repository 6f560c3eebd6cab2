"""Knows what candidates take: a few interleaved turns, each run in a process of its own, and which
limits that breaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from pocketvlm.errors import EngineError, RequestError
from pocketvlm_measure.tune.source import Source, Taken
from pocketvlm_measure.tune.tuning import Candidate, TuneLimits

TURNS = 3  # of all candidates, before any question is asked
CONFIRMING = 4  # further ones of the chosen one where there is a limit that it might break


@dataclass
class Stopwatch:
    """Takes turns and keeps every sample; none is ever dropped.

    Attributes:
        source: where runs are made.
        turns: what each took in each turn.
        refused: why a candidate cannot run.
    """

    source: Source
    turns: list[dict[Candidate, Taken]] = field(default_factory=list)
    refused: dict[Candidate, str] = field(default_factory=dict)

    def take(self, candidates: Iterable[Candidate], until: float) -> None:
        """One more turn of the baseline and these; no run begins after ``until``.

        Raises:
            EngineError: the baseline itself cannot run.
        """
        baseline = self.source.baseline
        taken = self.source.turn([baseline, *candidates], len(self.turns), until)
        for candidate, result in taken.items():
            if isinstance(result, str):
                self.refused[candidate] = result
        if baseline in self.refused:
            raise EngineError(
                f"the baseline, {baseline}, cannot run: {self.refused[baseline]}",
                advice="leave its budget or precision out",
            )
        self.turns.append({one: what for one, what in taken.items() if isinstance(what, Taken)})

    def ttft_ms(self, candidate: Candidate) -> tuple[float, ...]:
        """Of each run, in the order of turns."""
        return tuple(turn[candidate].ttft_ms for turn in self.turns if candidate in turn)

    def peak_bytes(self, candidate: Candidate) -> tuple[int, ...]:
        """Of each run whose memory the system counted."""
        peaks = [turn[candidate].peak_bytes for turn in self.turns if candidate in turn]
        return tuple(peak for peak in peaks if peak is not None)

    def ratios(self, candidate: Candidate) -> tuple[float, ...]:
        """Of each turn, the time to first token by the baseline's in the same turn."""
        baseline = self.source.baseline
        return tuple(
            turn[candidate].ttft_ms / turn[baseline].ttft_ms
            for turn in self.turns
            if candidate in turn and baseline in turn
        )

    def cost(self, candidate: Candidate) -> float:
        """What candidates are ordered by: the median of the ratios; infinite where there is
        none."""
        ratios = self.ratios(candidate)
        return median(ratios) if ratios else float("inf")

    def broken(self, candidate: Candidate, limits: TuneLimits) -> str | None:
        """Which limit the slowest or largest run broke, by how much; None for none.

        Raises:
            RequestError: memory is limited, and this system does not count it.
        """
        worst = max(self.excess(candidate, limits), default=None)
        return worst and worst[1]

    def excess(self, candidate: Candidate, limits: TuneLimits) -> list[tuple[float, str]]:
        """(share of the limit by which it is exceeded, that in words) of each limit that is."""
        times, peaks = self.ttft_ms(candidate), self.peak_bytes(candidate)
        if times and not peaks and limits.max_memory is not None:
            raise RequestError(
                "this system does not count the memory of a process",
                advice="leave --max-memory out",
                setting="max_memory",
            )
        measured: Sequence[tuple[float | None, Sequence[float], str, str]] = (
            (limits.max_ttft, times, "ms to the first token", "--max-ttft"),
            (limits.max_memory, [peak / 1e6 for peak in peaks], "MB of memory", "--max-memory"),
        )
        return [
            (
                max(samples) / limit - 1,
                f"takes up to {max(samples):.0f} {what} in {_runs(len(samples))}, "
                f"{max(samples) - limit:.1f} more than {option} {limit:g}",
            )
            for limit, samples, what, option in measured
            if limit is not None and samples and max(samples) > limit
        ]


def _runs(number: int) -> str:
    return "its one run" if number == 1 else f"{number} runs"
