"""Knows how to compare durations fairly: turns taken in one run, medians, a machine that is checked to be quiet."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import click
import psutil
from tqdm import tqdm

Candidate = TypeVar("Candidate", bound=Hashable)

BUSY = 15.0  # per cent of all cores used by others while we wait


@dataclass(frozen=True)
class Spread:
    """Samples in milliseconds, in the order they were taken."""

    samples: Sequence[float]

    @property
    def median(self) -> float:
        """The median sample."""
        return statistics.median(self.samples)

    def __str__(self) -> str:
        """Median with the smallest and the largest sample."""
        return f"{self.median:.1f} ({min(self.samples):.1f}-{max(self.samples):.1f})"


def take_turns(
    measured: Mapping[Candidate, Callable[[], dict[str, float]]], repeat: int, warmup: int = 1
) -> dict[Candidate, dict[str, Spread]]:
    """Call every candidate ``repeat`` times in turn; each call returns milliseconds by stage.

    Turns, not blocks: what slows the machine for a while slows all candidates alike.
    """
    taken: dict[Candidate, list[dict[str, float]]] = {name: [] for name in measured}
    for turn in tqdm(range(warmup + repeat), desc="turns", disable=None):
        for name, measure in measured.items():
            sample = measure()
            if turn >= warmup:
                taken[name].append(sample)
    return {
        name: {stage: Spread([sample[stage] for sample in samples]) for stage in samples[0]}
        for name, samples in taken.items()
    }


def check_quiet(allow_busy: bool) -> str:
    """A line on how busy the machine is; refuses a busy one unless allowed."""
    busy = psutil.cpu_percent(interval=2)
    line = f"other load before measuring: {busy:.0f} % of {psutil.cpu_count()} CPUs"
    if busy > BUSY and not allow_busy:
        raise click.ClickException(f"{line}; expected at most {BUSY:.0f} %: wait, or pass --allow-busy")
    return line
