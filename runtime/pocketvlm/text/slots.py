"""Knows where pictures stand among the ids of a prompt: what is put into their places, and where
ids are cut for their features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm.decoders.base import EmbeddingSegment, Segment, TokenSegment
from pocketvlm.errors import ArtifactError


def place(
    ids: npt.NDArray[np.int64],
    slot_ids: npt.NDArray[np.int64],
    pictures: Sequence[npt.NDArray[np.int64]],
) -> npt.NDArray[np.int64]:
    """Ids with one image token per picture -> ids with each picture's own in its place, see
    `Layout.expand`. ``slot_ids`` are the tokens in the places of pictures."""
    at = np.flatnonzero(np.isin(ids, slot_ids))
    texts = np.split(ids, np.sort(np.concatenate([at, at + 1])))  # text and image tokens in turns
    texts[1::2] = pictures
    return np.concatenate(texts)


def cut(
    ids: npt.NDArray[np.int64],
    slot_ids: npt.NDArray[np.int64],
    pictures: Iterable[EmbeddingSegment | npt.NDArray[np.float32]],
) -> list[Segment]:
    """Cut ids at the image slots and put each picture's features, float32 (slots, hidden), in
    their place.

    Other ids may come between the slots of a picture: its features are then cut there too.

    Raises:
        ArtifactError: there are more slots than features, or fewer.
    """
    features = [
        picture if isinstance(picture, EmbeddingSegment) else EmbeddingSegment(picture)
        for picture in pictures
    ]
    is_slot = np.append(np.isin(ids, slot_ids), False)
    slots, tokens = int(is_slot.sum()), sum(map(len, features))
    if slots != tokens:  # of a graph that gives something else than the manifest states
        raise ArtifactError(
            f"the vision graph gives {tokens} tokens for {slots} places in the prompt",
            expected="as many of both",
            advice="export the artifact again",
        )
    segments: list[Segment] = []
    at = 0
    for picture in features:
        filled = 0
        while filled < len(picture):
            start = at + int(np.argmax(is_slot[at:]))
            run = int(np.argmin(is_slot[start:]))
            if start > at:
                segments.append(TokenSegment(ids[at:start]))
            segments.append(part := _part(picture, filled, filled + run))
            filled += len(part)
            at = start + len(part)
    if at < len(ids):
        segments.append(TokenSegment(ids[at:]))
    return segments


def _part(picture: EmbeddingSegment, start: int, end: int) -> EmbeddingSegment:
    """Rows of a picture, at most as many as it has; the whole of it where that is asked for."""
    if start == 0 and end >= len(picture):
        return picture
    key = None if picture.key is None else f"{picture.key}/{start}"
    return EmbeddingSegment(
        picture.inputs_embeds[start:end],
        key,
        continues=start > 0,
        grid=picture.grid,
        kept=None if picture.kept is None else picture.kept[start:end],
        extras={name: extra[start:end] for name, extra in picture.extras.items()},
        visual_scores=None if picture.visual_scores is None else picture.visual_scores[start:end],
    )
