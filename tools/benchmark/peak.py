"""Knows a process's peak memory in the unit of the tables."""

from __future__ import annotations

from pocketvlm_measure.profiler import memory


def peak_memory() -> float:
    """Largest resident set of this process so far, in MB; RuntimeError where the system does not
    count it."""
    peak = memory.peak_memory()
    if peak is None:
        raise RuntimeError("this system does not count a process's peak memory")
    return peak / 1e6
