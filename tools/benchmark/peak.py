"""Knows the peak memory of the process it runs in."""

import resource
import sys


def peak_memory() -> float:
    """Largest resident set so far, in MB, memory-mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
