"""Knows the peak memory of the process it runs in."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory() -> int | None:
    """Largest resident set so far in bytes, memory-mapped files included; None where the system
    does not count it.

    On Linux getrusage is of no use: there a process starts with the peak of the one that started
    it.
    """
    if _STATUS.exists():
        return (
            next(
                int(line.split()[1]) for line in _STATUS.read_text().splitlines() if "VmHWM" in line
            )
            * 1024
        )
    try:
        import resource
    except ImportError:
        return _of_windows()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _of_windows() -> int | None:
    import psutil

    peak: int | None = getattr(psutil.Process().memory_info(), "peak_wset", None)
    return peak
