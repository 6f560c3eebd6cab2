"""Knows what llama.cpp reads at once: batches of token ids or of embeddings, with positions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact.specs import CAUSAL
from pocketvlm.decoders.base import EmbeddingSegment, Segment
from pocketvlm.decoders.positions import Ints
from pocketvlm.errors import EngineError

Array = npt.NDArray[Any]  # int32 (n,) ids or float32 (n, width) embeddings


class Batch(NamedTuple):
    """What `llama_decode` is given.

    Attributes:
        values: int32 (n,) ids or float32 (n, width) embeddings, in each row a token's features and
            behind them its further ones.
        pos: int32 (n,) of ids, (planes * n,) of embeddings: times, rows, columns and zeros of all
            of this batch after each other. None where llama.cpp counts by itself.
        causal: whether each sees those before it; else all see each other.
    """

    values: Array
    pos: npt.NDArray[np.int32] | None
    causal: bool = True


def batches(
    segments: Sequence[Segment],
    numbers: Sequence[Ints],
    *,
    planes: int,
    limit: int,
    extras: Sequence[str] = (),
    counts: bool | None = None,
    attention: str = CAUSAL,
) -> Iterator[Batch]:
    """Batches of at most ``limit`` tokens; each is either text or of pictures.

    Args:
        segments: what is read.
        numbers: the positions of each, int64 (axes, n).
        planes: how many numbers of an embedding's position llama.cpp reads, `LlamaModel.planes`.
            With one, neighbouring pictures are read at once.
        limit: tokens.
        extras: names of the further features that are read, in the order of their layers; llama.cpp
            takes zeros for text itself.
        counts: whether llama.cpp counts positions by itself, which it does from 0 on; None where
            it can, with one plane.
        attention: which see each other, `pocketvlm.artifact.specs.ATTENTIONS`.

    Raises:
        EngineError: tokens of a picture that see each other are more than are read at once.
    """
    counts = planes == 1 if counts is None else counts
    two_way = attention != CAUSAL
    for run in _runs(segments, numbers, join_pictures=planes == 1 and not two_way):
        values = _joined([segment for segment, _ in run], extras)
        positions = None if counts else np.concatenate([each for _, each in run], axis=1)
        causal = not (two_way and values.ndim > 1)
        if not causal and len(values) > limit:
            raise EngineError(
                f"the {len(values)} tokens of a picture attend to each other, and llama.cpp reads "
                f"{limit} at once",
                advice="use a smaller budget, or the engine onnx",
            )
        for start in range(0, len(values), limit):
            part = slice(start, start + limit)
            pos = None if positions is None else _pos(values[part], positions[:, part], planes)
            yield Batch(values[part], pos, causal)


def _runs(
    segments: Sequence[Segment], numbers: Sequence[Ints], *, join_pictures: bool
) -> Iterator[list[tuple[Segment, Ints]]]:
    """Neighbours that are read together. Each picture with positions of its own is read alone."""
    kinds = itertools.count(1)

    def kind(item: tuple[Segment, Ints]) -> int:
        if not isinstance(item[0], EmbeddingSegment):
            return 0
        return 1 if join_pictures else next(kinds)

    for _, group in itertools.groupby(zip(segments, numbers, strict=True), kind):
        yield list(group)


def _joined(segments: Sequence[Segment], extras: Sequence[str]) -> Array:
    """Segments of one kind as one array."""
    parts = [
        np.concatenate([part.inputs_embeds, *(part.extras[name] for name in extras)], axis=1)
        if isinstance(part, EmbeddingSegment)
        else part.ids
        for part in segments
    ]
    picture = isinstance(segments[0], EmbeddingSegment)
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32 if picture else np.int32)


def _pos(values: Array, positions: Ints, planes: int) -> npt.NDArray[np.int32]:
    """`Batch.pos`, as long as llama.cpp reads it whatever ``positions`` (axes, n) are: it would
    read beyond a shorter one."""
    rows = 1 if values.ndim == 1 else planes
    pos = np.zeros((rows, len(values)), dtype=np.int32)
    pos[: len(positions)] = positions[:rows]
    return pos.reshape(-1)
