"""Knows what an answer consists of; `pocketvlm run --json` prints the same fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict

FinishReason = Literal["stop", "length", "interrupted"]


class VisualTokens(TypedDict):
    """Visual tokens over all pictures, before and after pruning.

    ``stages``: the tokens kept after each stage, of a decoder that drops some between its layers.
    """

    before: int
    after: int
    stages: NotRequired[list[int]]


class PromptTokens(TypedDict):
    """Tokens of the prompt, pictures included, and how many of them the KV cache already held."""

    total: int
    cached: int


class SelectTime(TypedDict, total=False):
    """``select`` of `Timings`, or nothing."""

    select: float


class Timings(TypedDict):
    """Wall-clock milliseconds.

    ``load``: `VLM.load`, once for all answers. ``preprocess``: pictures to pixel_values, and the
    prompt to ids. ``vision``: the vision graph over all pictures that were not encoded before.
    ``select``: selection by the question, a part of ``vision``. ``embed``: token embeddings of the
    prompt, if the decoder does not look them up itself. ``prefill``: the decoder over the part of
    the prompt that its cache does not hold. ``ttft``: time to first token. It spans all of the
    above except load, and also setting up the answer, choosing the token, and in ``run`` opening
    the decoder. ``decode``: all further tokens. ``total``: ttft + decode.

    The time of a stream's reader is not counted. ttft and decode include waiting for the steps of
    other answers; the parts of ttft do not.
    """

    load: float
    preprocess: float
    vision: float
    select: NotRequired[float]
    embed: float
    prefill: float
    ttft: float
    decode: float
    total: float


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    >>> from pocketvlm import VLM
    >>> answer = VLM.load("demo-vlm").generate("What is red?", images=["examples/scene-3.png"])
    >>> answer.visual_tokens, answer.tokens_per_picture
    ({'before': 144, 'after': 36}, [36])
    >>> len(answer.kept_indices[0]), answer.finish_reason, answer.decoder
    (36, 'stop', 'onnx fp32')
    >>> answer.timings_ms["ttft"] <= answer.timings_ms["total"]
    True

    Attributes:
        text: the answer without special tokens.
        token_ids: all tokens generated, with the end-of-sequence token where there is one.
        kept_indices: the kept patches of each picture or clip, in the order of the prompt and in
            raster order. They are numbered across the tiles of a picture, or the frames of a clip.
        visual_tokens: their number before and after pruning.
        tokens_per_picture: visual tokens of each picture or clip after pruning.
        prompt_tokens: their number, and how many of them were in the KV cache.
        decoder: the engine and precision that answered, as in ``"onnx fp32"``.
        timings_ms: see `Timings`.
        pictures_below_budget: pictures that kept all their tokens, because they have fewer than the
            budget.
        pictures_reduced: pictures that were read at a fraction of their size, to stay within
            `pocketvlm.PictureLimits`.
        pictures_selected_anew: pictures whose kept tokens differ from the conversation's last
            question, if the method reads the prompt. The prompt was prefilled again from the first
            of them on.
        caps: the limits on its pictures, ``max_pixels`` and ``max_tiles``, if the artifact has
            them.
        finish_reason: ``"stop"`` at an end-of-sequence token or a complete JSON answer,
            ``"length"`` at max_new_tokens, ``"interrupted"`` after `Stream.stop`.
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
    pictures_below_budget: int = 0
    pictures_reduced: int = 0
    pictures_selected_anew: int = 0
    caps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GuidedAnswer(Answer):
    """One generated answer of two models; the small one, the guide, answered first.

    >>> from pocketvlm import VLM, Guided
    >>> pair = Guided(VLM.load("large"), VLM.load("small"), confidence=0.9)
    >>> answer = pair.generate("What shape is red?", images=["examples/scene-3.png"])
    >>> answer.answered_by, answer.confidence > 0.9, answer.guide.text
    ('guide', True, ' circle')

    ``timings_ms`` are those of the model that answered. ``ttft`` and ``total`` count from the
    beginning and include the guide's whole answer, because only its end decides who answers.

    Attributes:
        answered_by: ``"guide"`` if it was sure enough, else ``"model"``, the large one.
        confidence: the product of the probabilities that the guide gives the tokens of its own
            answer, 0 to 1.
        guide: the guide's own answer, with its own timings.
    """

    answered_by: Literal["guide", "model"]
    confidence: float
    guide: Answer
