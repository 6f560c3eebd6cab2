"""Knows how the memory of a freed component goes back to the system before the next one is loaded."""

import ctypes
import gc
import sys


def release_memory() -> None:
    """Collect garbage and give freed heap pages back.

    Weights are loaded by several threads in pieces below glibc's mmap threshold: once freed they stay in those threads'
    arenas, where the next component's weights do not find them. ``malloc_trim`` returns them; other systems' allocators
    need no such call.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
