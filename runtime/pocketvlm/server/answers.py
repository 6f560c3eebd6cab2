"""Knows how one request is answered in the model's process, event by event."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pocketvlm.answer import Answer
from pocketvlm.answering import Abandoned, Request
from pocketvlm.decoders.sampling import Sampling
from pocketvlm.errors import PictureError
from pocketvlm.layouts import tokens_before
from pocketvlm.limits import PictureLimits
from pocketvlm.media.pictures import upright_size
from pocketvlm.server.settings import MOST_TOKENS
from pocketvlm.server.wire import BEGUN, DONE, TEXT
from pocketvlm.vision.places import kept_tiles
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
    if gone.is_set():  # while it waited for its model: nothing is decoded for nobody
        raise Abandoned
    request = _prepared(vlm, asked, pictures, budget, gone)
    stream = vlm.parts.begin(request)
    yield {"kind": BEGUN}
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
    """Facts of an answer besides its text, as JSON has it."""
    files = {hashlib.sha256(data).hexdigest(): data for data in pictures}
    timings: dict[str, Any] = {**answer.timings_ms}
    del timings["load"], timings["total"]
    timings["decode"] /= max(len(answer.token_ids) - 1, 1)
    return {
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens["total"],
        "cached_tokens": answer.prompt_tokens["cached"],
        "completion_tokens": len(answer.token_ids),
        "details": {
            "budget": budget,
            "decoder": answer.decoder,
            "token_ids": answer.token_ids,
            "visual_tokens": answer.visual_tokens["after"],
            "visual_tokens_before": answer.visual_tokens["before"],
            "kept": [
                _described_picture(picture, kept, files.get(picture.identity or ""))
                for picture, kept in zip(request.pictures, answer.kept_indices, strict=True)
            ],
            "timings": {name: round(spent, 3) for name, spent in timings.items()},
        },
    }


def _described_picture(
    picture: PictureInput, kept: Sequence[int], data: bytes | None
) -> dict[str, Any]:
    """How a picture was cut, and which patches of each tile were kept."""
    grid = picture.grid
    size = None if data is None else _size(data)
    return {
        "width": size and size[0],
        "height": size and size[1],
        "rows": grid.rows,
        "columns": grid.columns,
        "tokens_before": tokens_before(picture.layout, grid),
        "tokens_kept": len(kept),
        "tiles": [
            {
                "rows": tile.grid.rows,
                "columns": tile.grid.columns,
                "whole": tile.whole,
                "kept": tile.kept,
                "patches": tile.patches,
            }
            for tile in kept_tiles(picture, kept, size)
        ],
    }


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        return upright_size(data, PictureLimits())
    except PictureError:  # it was read once, and the answer is there
        return None
