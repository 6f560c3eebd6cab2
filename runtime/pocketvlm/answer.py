"""Knows what an answer consists of; `pocketvlm run --json` prints the same fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict


class VisualTokens(TypedDict):
    """Visual tokens over all pictures, before and after pruning."""

    before: int
    after: int


class Timings(TypedDict):
    """Wall-clock milliseconds.

    ``load``: `VLM.load`, once for all answers. ``preprocess``: pictures to pixel_values, and the prompt to ids.
    ``vision``: the vision graph over all pictures. ``embed``: token embeddings of the prompt. ``prefill``: the
    decoder over the whole prompt. ``ttft``: from the call to the first token picked; spans all of the above but load.
    ``decode``: making all further tokens. ``total``: ttft + decode; what the reader of a stream does meanwhile is not
    counted.
    """

    load: float
    preprocess: float
    vision: float
    embed: float
    prefill: float
    ttft: float
    decode: float
    total: float


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: the answer, special tokens left out.
        token_ids: what the model said, with the end-of-sequence token where it came to one.
        kept_indices: for each picture the patches kept, in raster order.
        visual_tokens: how many there were before and after pruning.
        timings_ms: see `Timings`.
        finish_reason: ``"stop"`` at an end-of-sequence token, ``"length"`` at max_new_tokens.
    """

    text: str
    token_ids: list[int]
    kept_indices: list[list[int]]
    visual_tokens: VisualTokens
    timings_ms: Timings
    finish_reason: Literal["stop", "length"]
