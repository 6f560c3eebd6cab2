"""Knows how one request is answered in the model's process, event by event."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pocketvlm.answer import Answer
from pocketvlm.answering import Request
from pocketvlm.decoders.sampling import Sampling
from pocketvlm.errors import PictureError
from pocketvlm.layouts import tokens_before, tokens_of_tiles
from pocketvlm.limits import PictureLimits
from pocketvlm.media.pictures import upright_size
from pocketvlm.server.settings import MOST_TOKENS
from pocketvlm.server.wire import BEGUN, DONE, TEXT
from pocketvlm.vision.viewer import PictureInput
from pocketvlm.vlm import VLM

Event = dict[str, Any]


def answer_events(
    vlm: VLM,
    asked: Mapping[str, Any],
    pictures: Sequence[bytes],
    budget: int,
    gone: threading.Event,
) -> Iterator[Event]:
    """Answer a request; what may be refused is refused before the first event.

    Args:
        vlm: what answers.
        asked: ``messages`` with their pictures by number, ``sampling`` (fields of `Sampling`) and
            ``max_tokens``.
        pictures: their files.
        budget: visual tokens per tile.
        gone: set where nobody waits for the answer any more.

    Raises:
        PocketVLMError: as `VLM.stream`.
        Abandoned: ``gone`` was set.
    """
    request = _prepared(vlm, asked, pictures, budget, gone)
    yield {"kind": BEGUN}
    stream = vlm.parts.begin(request)
    for piece in stream:
        yield {"kind": TEXT, "text": piece}
    yield {"kind": DONE, **_described(stream.answer, request, budget, pictures)}


def _prepared(
    vlm: VLM,
    asked: Mapping[str, Any],
    pictures: Sequence[bytes],
    budget: int,
    gone: threading.Event,
) -> Request:
    stated = asked["max_tokens"]
    sampling = Sampling(**{**asked["sampling"], "max_new_tokens": stated or 1})
    messages = [
        {"role": message["role"], "content": [_part(part, pictures) for part in message["content"]]}
        for message in asked["messages"]
    ]
    request = vlm.prepare(messages=messages, budget=budget, sampling=sampling)
    if stated is None:
        most = min(MOST_TOKENS, vlm.parts.room(request))
        sampling = replace(sampling, max_new_tokens=most)
    return replace(request, sampling=sampling, gone=gone)


def _part(part: Mapping[str, Any], pictures: Sequence[bytes]) -> Mapping[str, Any]:
    return {**part, "image": pictures[part["image"]]} if part["type"] == "image" else part


def _described(
    answer: Answer, request: Request, budget: int, pictures: Sequence[bytes]
) -> dict[str, Any]:
    """What is told of an answer besides its text, as JSON has it."""
    sizes = {hashlib.sha256(data).hexdigest(): data for data in pictures}
    return {
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens["total"],
        "cached_tokens": answer.prompt_tokens["cached"],
        "completion_tokens": len(answer.token_ids),
        "details": {
            "budget": budget,
            "decoder": answer.decoder,
            "visual_tokens": answer.visual_tokens,
            "pictures": [
                _described_picture(picture, kept, sizes.get(picture.identity or ""))
                for picture, kept in zip(request.pictures, answer.kept_indices, strict=True)
            ],
            "timings_ms": answer.timings_ms,
        },
    }


def _described_picture(
    picture: PictureInput, kept: Sequence[int], data: bytes | None
) -> dict[str, Any]:
    """How a picture was cut, and which patches of each tile were kept: in raster order, and the
    best first, by which a page shows what smaller budgets would keep."""
    layout, grid = picture.layout, picture.grid
    ranked = list(_ranked(picture))
    shapes = [layout.token_grid(batch) for batch in grid.batches for _ in range(batch.tiles)]
    tiles, first = [], 0
    for shape, tokens in zip(shapes, tokens_of_tiles(layout, grid), strict=True):
        own = [number - first for number in kept if first <= number < first + tokens]
        best = ranked[len(tiles)]
        tiles.append({"rows": shape.rows, "columns": shape.columns, "kept": own, "ranked": best})
        first += tokens
    width, height = (None, None) if data is None else _size(data)
    return {
        "width": width,
        "height": height,
        "rows": grid.rows,
        "columns": grid.columns,
        "whole": grid.whole,
        "tokens_before": tokens_before(layout, grid),
        "tokens_kept": len(kept),
        "tiles": tiles,
    }


def _ranked(picture: PictureInput) -> Iterator[list[int]]:
    """The patches kept of each tile, the best first, of equal ones the lower row first."""
    for batch in picture.features or ():
        for indices, scores in zip(batch.kept_indices, batch.kept_scores, strict=True):
            yield indices[np.argsort(-scores, kind="stable")].tolist()


def _size(data: bytes) -> tuple[int | None, int | None]:
    try:
        return upright_size(data, PictureLimits())
    except PictureError:  # it was read once, and the answer is there
        return None, None
