"""Knows how many threads an engine may be given, and how many cores it has to itself if nobody
says."""

from __future__ import annotations

import os
from pathlib import Path

from pocketvlm.errors import RequestError

_TOPOLOGY = Path("/sys/devices/system/cpu")  # Linux
_MOST = 4  # threads a processor; many more bring the whole machine to a halt


def check_threads(threads: int | None) -> None:
    """Raise `PocketVLMError` for a number of threads that no machine like this has use for; None is
    the default."""
    processors = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= _MOST * processors:
        raise RequestError(
            f"threads={threads}",
            expected=f"1..{_MOST * processors} on a machine of {processors} processors",
            advice="or none for its default",
            setting="threads",
        )


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of one core count once where the system
    tells."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    try:
        siblings = {
            (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable
        }
    except OSError:
        return len(usable)
    return len(siblings)
