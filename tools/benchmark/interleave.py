"""Knows how maintainers compare durations: stages in turns, on a machine that must be quiet."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import click

from pocketvlm_measure.machine import BUSY, other_load
from pocketvlm_measure.spread import Spread
from pocketvlm_measure.turns import measure_in_turns

Candidate = TypeVar("Candidate", bound=Hashable)

__all__ = ["Spread", "check_quiet", "take_turns"]


def take_turns(
    functions: Mapping[Candidate, Callable[[], dict[str, float]]], repeat: int, warmup: int = 1
) -> dict[Candidate, dict[str, Spread]]:
    """Call every candidate ``repeat`` times in turns; each call returns milliseconds by stage."""
    return {
        name: {stage: Spread([sample[stage] for sample in samples]) for stage in samples[0]}
        for name, samples in measure_in_turns(functions, repeat, warmup).items()
    }


def check_quiet(allow_busy: bool) -> str:
    """A line on how busy the machine is; refuses a busy one unless allowed."""
    busy = other_load(seconds=2)
    if busy is None:
        return "other load before measuring: unknown"
    line = f"other load before measuring: {busy:.0f} % of {os.cpu_count()} CPUs"
    if busy > BUSY and not allow_busy:
        raise click.ClickException(
            f"{line}; expected at most {BUSY:.0f} %: wait, or pass --allow-busy"
        )
    return line
