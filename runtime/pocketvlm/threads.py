"""Knows how many threads an engine may be given, and how many cores it has to itself if nobody says."""

from __future__ import annotations

import os
from pathlib import Path

from pocketvlm.errors import PocketVLMError

_TOPOLOGY = Path("/sys/devices/system/cpu")  # Linux


def check_threads(threads: int | None) -> None:
    """Raise `PocketVLMError` for a number of threads below one; None leaves the engine's default."""
    if threads is not None and threads < 1:
        raise PocketVLMError(f"threads={threads}: expected at least 1, or none for the machine's default")


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of one core count once where the system tells."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    try:
        siblings = {(_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable}
    except OSError:
        return len(usable)
    return len(siblings)
