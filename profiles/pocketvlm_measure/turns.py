"""Knows how to compare fairly: candidates take turns in one run, so that a slow machine slows all
of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from pocketvlm_measure.progress import counter

Candidate = TypeVar("Candidate")
Sample = TypeVar("Sample")


def take_turns(
    candidates: Sequence[Candidate],
    measure: Callable[[Candidate], Sample],
    repeat: int,
    *,
    first_turn: int = 0,
) -> Iterator[tuple[int, Candidate, Sample]]:
    """Measure every candidate ``repeat`` times in turns: yields (turn, candidate, sample) as they
    come.

    Each turn begins with another candidate, so that none always comes first; ``first_turn`` is the
    number of the first, where some were taken before. A progress bar shows on a terminal.
    """
    with counter(total=repeat * len(candidates), desc="measuring", unit="run") as bar:
        for turn in range(first_turn, first_turn + repeat):
            first = turn % max(1, len(candidates))
            for candidate in (*candidates[first:], *candidates[:first]):
                bar.set_postfix_str(str(candidate), refresh=False)
                sample = measure(candidate)
                bar.update()
                yield turn, candidate, sample


def measure_in_turns(
    functions: Mapping[Candidate, Callable[[], Sample]], repeat: int, warmup: int = 1
) -> dict[Candidate, list[Sample]]:
    """Call every candidate's function in turns; the samples of each, without those of the first
    ``warmup`` turns."""
    samples: dict[Candidate, list[Sample]] = {name: [] for name in functions}
    for turn, name, sample in take_turns(
        list(functions), lambda name: functions[name](), warmup + repeat
    ):
        if turn >= warmup:
            samples[name].append(sample)
    return samples
