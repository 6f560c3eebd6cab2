"""Knows what an answer consists of; `pocketvlm run --json` prints the same fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

FinishReason = Literal["stop", "length", "interrupted"]


class VisualTokens(TypedDict):
    """Visual tokens over all pictures, before and after pruning; ``fastv`` of them go on inside a
    decoder that drops more on its way, and is stated for such decoders alone."""

    before: int
    after: int
    fastv: NotRequired[int]


class PromptTokens(TypedDict):
    """Tokens of the prompt, pictures included, and those of them that the decoder still held from
    the turn before."""

    total: int
    cached: int


class Timings(TypedDict):
    """Wall-clock milliseconds.

    ``load``: `VLM.load`, once for all answers. ``preprocess``: pictures to pixel_values, and the
        prompt to ids.
    ``vision``: the vision graph over all pictures not seen before. ``embed``: token embeddings of
    the prompt, where the decoder does not look them up itself. ``prefill``: the decoder over what
    of the prompt it does not hold yet.
    ``ttft``: from the call to the first token picked; spans all of the above but load. ``decode``:
    making all further tokens. ``total``: ttft + decode; what the reader of a stream does meanwhile
    is not counted.
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
        kept_indices: for each picture the patches kept, in raster order; those of tiles, or of a
            clip's frames, are numbered on from one to the next.
        visual_tokens: how many there were before and after pruning.
        tokens_per_picture: visual tokens of each picture after pruning.
        prompt_tokens: how many there were in all, and how many of them cost nothing.
        decoder: the engine and precision that answered, as in ``"onnx fp32"``.
        timings_ms: see `Timings`.
        finish_reason: ``"stop"`` at an end-of-sequence token, ``"length"`` at max_new_tokens,
            ``"interrupted"`` where the stream was asked to stop.
    """

    text: str
    token_ids: list[int]
    kept_indices: list[list[int]]
    visual_tokens: VisualTokens
    tokens_per_picture: list[int]
    prompt_tokens: PromptTokens
    decoder: str
    timings_ms: Timings
    finish_reason: FinishReason
