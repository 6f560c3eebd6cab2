"""Knows what an answer consists of; `pocketvlm run --json` prints the same fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict

FinishReason = Literal["stop", "length", "interrupted"]


class VisualTokens(TypedDict):
    """Visual tokens over all pictures, before and after pruning.

    ``stages``: of a decoder that drops some between its layers, those that went on after each of
    its stages.
    """

    before: int
    after: int
    stages: NotRequired[list[int]]


class PromptTokens(TypedDict):
    """Tokens of the prompt, pictures included, and those of them that the conversation's KV cache
    held already."""

    total: int
    cached: int


class SelectTime(TypedDict, total=False):
    """``select`` of `Timings`, or nothing."""

    select: float


class Timings(TypedDict):
    """Wall-clock milliseconds.

    ``load``: `VLM.load`, once for all answers. ``preprocess``: pictures to pixel_values, and the
    prompt to ids. ``vision``: the vision graph over all pictures that were not encoded before.
    ``select``: the part of it that selecting by the question took, where the method reads that.
    ``embed``: token embeddings of the prompt, where the decoder does not look them up itself.
    ``prefill``: the decoder over what of the prompt its cache does not hold yet. ``ttft``: time to
    the first token, which spans all of the above but load, and what lies between: setting up the
    answer, choosing the token, and in ``run`` opening the decoder behind the picture.
    ``decode``: all further tokens. ``total``: ttft + decode.

    What the reader of a stream does meanwhile is not counted. Where other answers are under way,
    ttft and decode count the waiting for their steps, the parts of ttft do not.
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
        text: the answer, special tokens left out.
        token_ids: all tokens generated, with the end-of-sequence token where there is one.
        kept_indices: for each picture or clip, in the order of the prompt, the patches kept, in
            raster order; those of tiles, or of a clip's frames, are numbered on from one to the
            next.
        visual_tokens: how many there were before and after pruning.
        tokens_per_picture: visual tokens of each picture or clip after pruning.
        prompt_tokens: how many there were in all, and how many of them were in the KV cache.
        decoder: the engine and precision that answered, as in ``"onnx fp32"``.
        timings_ms: see `Timings`.
        pictures_below_budget: of the pictures, those that kept all their tokens because they have
            fewer than the budget.
        pictures_reduced: of the pictures, those that were read at a fraction of their size, as they
            would take more memory than `pocketvlm.PictureLimits` allows.
        pictures_selected_anew: of the pictures, those of which this question keeps other tokens
            than the conversation's last one did, where the method reads the prompt: the prompt was
            read again from the first of them on.
        caps: the limits that were in force on its pictures, ``max_pixels`` and ``max_tiles``, where
            the artifact has them.
        finish_reason: ``"stop"`` at an end-of-sequence token, or where a JSON answer is whole,
            ``"length"`` at max_new_tokens, ``"interrupted"`` where the stream was asked to stop.
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
    """One generated answer of two models, of which the small one, the guide, has answered first.

    >>> from pocketvlm import VLM, Guided
    >>> pair = Guided(VLM.load("large"), VLM.load("small"), confidence=0.9)
    >>> answer = pair.generate("What shape is red?", images=["examples/scene-3.png"])
    >>> answer.answered_by, answer.confidence > 0.9, answer.guide.text
    ('guide', True, ' circle')

    ``timings_ms`` are those of the model that answered, but ``ttft`` and ``total`` count from the
    beginning, the guide's whole answer with them: only at its end is it known who answers.

    Attributes:
        answered_by: ``"guide"`` where it was sure enough, else ``"model"``, the large one.
        confidence: the product of the probabilities that the guide gives the tokens of its own
            answer, 0 to 1.
        guide: the guide's own answer, with its own timings.
    """

    answered_by: Literal["guide", "model"]
    confidence: float
    guide: Answer
