"""Knows what an export holds in memory at its peak, and how a freed component's part goes back to
the system."""

import ctypes
import gc
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from pocketvlm_export.families import VLMSpec

_BASELINE = (
    700 << 20
)  # torch, transformers and ONNX Runtime, and what they keep of the graphs that they have read
# Maps of one layer beside those that are recorded: products, their softmax, and what the method's
# float64 oracle makes of one.
_MAPS_UNDER_WAY = 4
# Tokens of the gate's pictures beyond the largest budget, where they are of any size.
_MORE_TOKENS = 36

T = TypeVar("T")


def estimate_peak(
    spec: VLMSpec, vision: int, embed: int, decoder: int, *, budget: int, recorded: int
) -> int:
    """Return the resident memory that an export of ``spec`` reaches, in bytes.

    One component is loaded at a time, each twice: to be traced, and as the parity gate's reference.
    The reference takes more. Of the tower it holds the attention maps of one picture in the layers
    that the method reads, and the current one. Of the decoder it holds the embedding too, which is
    still mapped from its file, in two bytes or four, while it becomes float32. ONNX Runtime's
    sessions stay below.

    Args:
        spec: the checkpoint.
        vision, embed, decoder: float32 bytes of tower with projector, of the embedding, of the
            decoder with its head.
        budget: the largest. Where resolution is dynamic the gate's pictures have a few tokens more,
            not those of the largest picture.
        recorded: layers of the tower whose attention the method reads, and those above them.
    """
    tower, tokens = spec.vision.dimensions, spec.vision.sequence
    if spec.vision.image_size is None:
        most = budget + 2 * math.isqrt(budget) + _MORE_TOKENS
        tokens = min(tokens, most * spec.vision.merge**2)
    maps = 4 * (recorded + _MAPS_UNDER_WAY) * tower.heads * tokens**2
    return _BASELINE + max(vision + maps, decoder + embed + embed // 2)


@contextmanager
def component(held: T) -> Iterator[T]:
    """Have one component in memory for the length of a block, and its memory back afterwards.

    What it held is freed although the caller's variable, or a cycle, still refers to it:

    | component | on the way out |
    |---|---|
    | a torch module | each parameter and buffer becomes empty |
    | anything with ``close()`` | it is closed |
    | any other object | it loses its attributes |

    None of them can be used after the block.
    """
    try:
        yield held
    finally:
        _empty(held)
        del held
        release_memory()


def _empty(held: Any) -> None:
    if isinstance(held, nn.Module):
        for tensor in (*held.parameters(), *held.buffers()):
            tensor.data = torch.empty(0, dtype=tensor.dtype)
    elif callable(close := getattr(held, "close", None)):
        close()
    else:
        vars(held).clear()


@contextmanager
def collecting_own_garbage() -> Iterator[None]:
    """Let `release_memory` look only at what is made within a block.

    With torch loaded an interpreter holds a million objects and more. Visiting all of them a dozen
    times is most of what the export of a small model takes.
    """
    if gc.get_freeze_count():  # an outer block's, or the program's own, which is not ours to undo
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory() -> None:
    """Collect garbage and give freed heap pages back.

    Several threads load weights in pieces below glibc's mmap threshold. Once freed they stay in
    those threads' arenas, which the next component's weights do not reuse. ``malloc_trim`` returns
    them; other systems' allocators need no such call.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
