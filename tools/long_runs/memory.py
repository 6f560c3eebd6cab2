"""Knows what memory a process takes at a moment, and by how much it grows with each answer.

Two figures, since each has a blind spot. *USS* is what the system would get back if the process
ended: it counts everything, in whole pages, so it jumps. The *heap* is what is handed out by malloc
at that moment, to the byte, where Python allocates by malloc too (``PYTHONMALLOC=malloc``); what a
library maps by itself is not in it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

# A process that answers once a second for a month would lose 207 MB. Over the first ten thousand
# answers lists of libraries still grow by some tens of bytes, less from thousand to thousand.
FLAT_BELOW = 80.0  # bytes per answer
_WARM_UP = 0.5  # of the answers: until then caches fill up to their bounds
_BLOCKS = 24  # of consecutive samples, which depend on each other
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sample:
    """What a process holds after so many answers; memory in bytes."""

    answers: int
    uss: int
    heap: int
    descriptors: int


@dataclass(frozen=True)
class Growth:
    """Bytes per answer, with the interval of 95 %."""

    slope: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """Whether growth of `FLAT_BELOW` bytes per answer or more is ruled out."""
        return self.high < FLAT_BELOW

    def __str__(self) -> str:
        return f"{self.slope:+.1f} B ({self.low:+.1f} to {self.high:+.1f})"


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def take_sample(answers: int) -> Sample:
    """This process's memory, with garbage collected and free pages given back before."""
    libc = ctypes.CDLL(None)
    gc.collect()
    libc.malloc_trim(0)
    libc.mallinfo2.restype = _Mallinfo
    heap = libc.mallinfo2()
    return Sample(answers, uss(), heap.uordblks + heap.hblkhd, descriptors())


def uss(process: int | str = "self") -> int:
    """Bytes that no other process shares with this one, or with another by its id."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return 1024 * sum(int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.M))


def descriptors(process: int | str = "self") -> int:
    """How many files, pipes and sockets a process holds open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def growth(samples: Sequence[Sample], figure: str) -> Growth:
    """By how much a figure of samples, ``uss`` or ``heap``, grows with each answer.

    The median of the slopes between all pairs of blocks (Theil and Sen), so that one jump of a
    cache is not growth. Blocks are medians: neighbouring samples hold the same pages, and an
    interval that took them as independent would be too narrow.
    """
    warm = _WARM_UP * samples[-1].answers
    rows = np.array(
        [(each.answers, getattr(each, figure)) for each in samples if each.answers >= warm],
        dtype=np.float64,
    )
    blocks = [np.median(part, axis=0) for part in np.array_split(rows, min(_BLOCKS, len(rows)))]
    counts, values = np.array(blocks).T
    slope, _, low, high = stats.theilslopes(values, counts, alpha=_CONFIDENCE)
    return Growth(float(slope), float(low), float(high))


def read_samples(path: Path) -> tuple[list[Sample], dict[str, int]]:
    """What `long_runs.answers` wrote: the samples, and how many answers there were of each kind,
    nothing where it was ended before."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    samples = [Sample(**row) for row in rows if "uss" in row]
    return samples, next((row for row in rows if "uss" not in row), {})
