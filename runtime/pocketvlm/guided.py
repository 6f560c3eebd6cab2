"""Knows how a small model guides a large one. It answers first, and its attention to each visual
token decides which of them the large one reads to the end (SGL, arXiv 2412.03324)."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from pocketvlm.answer import Answer, GuidedAnswer
from pocketvlm.answering import Guidance, Request
from pocketvlm.artifact import Artifact, Manifest
from pocketvlm.decoders.sampling import GREEDY, Sampling
from pocketvlm.decoders.witness import Witness
from pocketvlm.errors import RequestError
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video
from pocketvlm.text.messages import Message
from pocketvlm.text.streaming import Stream
from pocketvlm.vision.viewer import PictureInput
from pocketvlm.vlm import VLM


class Guided:
    """A large model and its guide.

    >>> from pocketvlm import VLM, Guided
    >>> guided = Guided(VLM.load("large"), VLM.load("small"))
    >>> answer = guided.generate("What shape is red?", images=["examples/scene-3.png"])
    >>> answer.text, answer.answered_by, answer.visual_tokens
    (' circle', 'model', {'before': 144, 'after': 144, 'stages': [57]})

    The guide answers every question first, greedily. If it is sure enough, its answer is the
    result, and the large model only prepares its prompt. Otherwise the large model answers. A
    decoder that drops visual tokens by given scores gets them from the guide. They are its
    attention to each token, summed over layers, heads and rows. The rows are those of the prompt
    after its last picture, and of each token that it answered.

    Both must make the same visual tokens of a picture: the same tiles, of the same rows and
    columns, with the same tokens kept. They do if no vision graph prunes, or if both have the same
    one. Other pairs are refused, when they are put together or at the first picture that differs.

    Threads may share it as they share a `VLM`; the guide may guide several models.

    Attributes:
        model: the large one; the caller closes it.
        guide: the small one; the caller closes it too.
        confidence: the least at which the guide's own answer is the result; None for never.
    """

    def __init__(self, model: VLM, guide: VLM, *, confidence: float | None = None) -> None:
        """Put two loaded models together.

        Args:
            model: the large one.
            guide: the small one, exported with ``--decoder-scores`` if the other drops visual
                tokens by given scores.
            confidence: from 0 to 1. If the guide is at least so sure, its answer is the result;
                with None the large model always answers.

        Raises:
            RequestError: the two do not match.
        """
        self.model = model
        self.guide = guide
        self.confidence = _checked(confidence)
        self._hands_over = model.artifact.manifest.decoder.reads_scores
        if self._hands_over:
            _check_pair(model, guide)
        elif confidence is None:
            raise RequestError(
                f"{_name(model)} drops no visual tokens by the scores of a guide, and without a "
                "confidence a guide decides nothing else",
                advice="export it with --decoder-stage LAYER:KEEP:given, or give --confidence",
                setting="guide",
            )

    @property
    def artifact(self) -> Artifact:
        """The large model's."""
        return self.model.artifact

    def generate(
        self,
        prompt: str | None = None,
        images: Sequence[Picture] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        videos: Sequence[Video] | None = None,
        budget: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> GuidedAnswer:
        """Answer a question, see `VLM.generate` and the class.

        Args:
            prompt: see there, as ``images``, ``messages`` and ``videos``.
            images: as there, but readable twice, because both models read them.
            messages: likewise.
            videos: likewise.
            budget: of the large model, and of the guide if it gives scores; a guide that only
                answers keeps its own.
            sampling: of the large model. The guide takes from it when an answer ends, and its JSON
                schema. With a confidence it must be greedy.

        Raises:
            RequestError: see `VLM.generate`; sampling with a confidence; or pictures that become
                different visual tokens in the two.
            PictureError: see `VLM.generate`, as `EngineError`.
        """
        answer = self.stream(
            prompt, images, messages=messages, videos=videos, budget=budget, sampling=sampling
        ).answer
        assert isinstance(answer, GuidedAnswer)
        return answer

    def stream(
        self,
        prompt: str | None = None,
        images: Sequence[Picture] | None = None,
        *,
        messages: Sequence[Message] | None = None,
        videos: Sequence[Video] | None = None,
        budget: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> Stream:
        """As `generate`, in text pieces, see `VLM.stream`. None comes while the guide answers, and
        its own answer comes whole."""
        # What is handed over is of the same tokens; else each model has a budget of its own.
        budget = self.model.budget if budget is None and self._hands_over else budget
        asked: dict[str, Any] = {"images": images, "messages": messages, "videos": videos}
        request = self.model.prepare(prompt, sampling=sampling, budget=budget, **asked)
        settled = sampling.over(self.model.checkpoint_sampling).settled()
        if self.confidence is not None and settled.temperature:
            raise RequestError(
                f"--confidence {self.confidence:g} takes the guide's greedy answer for the answer, "
                f"and at temperature {settled.temperature:g} another would be drawn",
                advice="leave one of them out",
                setting="confidence",
            )
        greedy = Sampling(
            max_new_tokens=sampling.max_new_tokens,
            stop=sampling.stop,
            json_schema=sampling.json_schema,
        )
        if self._hands_over and request.pictures:
            _check_kept(self.model, self.guide, request.pictures[0].budget)
        own = budget if self._hands_over else None
        first = self.guide.prepare(prompt, sampling=greedy, budget=own, **asked)
        if self._hands_over:
            self._check_grids(first.pictures, request.pictures)
        stop = _Stop()
        return Stream(self._run(first, request, stop), stop)

    def _run(
        self, first: Request, request: Request, stop: _Stop
    ) -> Generator[str, None, GuidedAnswer]:
        """The guide's ``first`` answer, and then perhaps the other; yields text pieces."""
        witness = Witness()
        own = stop.heeding(
            self.guide.parts.begin(replace(first, witness=witness, reused=False))
        ).answer
        sure = self.confidence is not None and witness.confidence >= self.confidence
        if sure or own.finish_reason == "interrupted":
            if own.text:
                yield own.text
            return _guided(own, own, witness, "guide")
        if self._hands_over:
            request = replace(request, guidance=_guidance(witness, self.guide))
        stream = stop.heeding(self.model.parts.begin(request))
        yield from stream
        return _guided(stream.answer, own, witness, "model")

    def _check_grids(self, ours: Sequence[PictureInput], theirs: Sequence[PictureInput]) -> None:
        """Refuse pictures of which the two do not make tokens in the same places."""
        for small, large in zip(ours, theirs, strict=True):
            grids = [_grid(picture) for picture in (small, large)]
            if grids[0] != grids[1]:
                raise RequestError(
                    f"{_name(self.guide)} makes {grids[0]} of a picture, {_name(self.model)} "
                    f"{grids[1]}",
                    expected="the same visual tokens in both",
                    advice="export both with the same layout, sizes and budget",
                    setting="guide",
                )


class _Stop:
    """Stops whichever of two answers is under way, or begins from then on."""

    def __init__(self) -> None:
        self._stopped = False
        self._stream: Stream | None = None

    def heeding(self, stream: Stream) -> Stream:
        """The stream, which is stopped from now on."""
        self._stream = stream
        if self._stopped:
            stream.stop()
        return stream

    def __call__(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.stop()


def _guidance(witness: Witness, guide: VLM) -> Guidance:
    scores = [each.astype(np.float32) for each in witness.visual_scores]
    return Guidance(scores, witness.kept_indices, _name(guide))


def _guided(
    answer: Answer, own: Answer, witness: Witness, by: Literal["guide", "model"]
) -> GuidedAnswer:
    """An answer with what is known of the guide's ``own``, which is the same where it answered."""
    fields = {each.name: getattr(answer, each.name) for each in dataclasses.fields(Answer)}
    waited = own.timings_ms["total"]
    timings = answer.timings_ms.copy()
    timings["ttft"] = waited if by == "guide" else waited + timings["ttft"]
    timings["total"] = waited if by == "guide" else waited + timings["total"]
    fields["timings_ms"] = timings
    return GuidedAnswer(**fields, answered_by=by, confidence=witness.confidence, guide=own)


def _checked(confidence: float | None) -> float | None:
    if confidence is None:
        return None
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise RequestError(
            f"confidence is of type {type(confidence).__name__}",
            expected="a number from 0 to 1",
            setting="confidence",
        )
    if not 0 <= confidence <= 1:
        raise RequestError(
            f"confidence {confidence:g} is outside 0..1",
            expected="a probability",
            setting="confidence",
        )
    return float(confidence)


def _check_pair(model: VLM, guide: VLM) -> None:
    """Refuse two models of which one cannot say what the other is to drop."""
    if not guide.artifact.manifest.decoder.scores:
        raise RequestError(
            f"the decoder of {_name(guide)} does not give its attention to visual tokens, by which "
            f"{_name(model)} drops some",
            advice="export it with --decoder-scores",
            setting="guide",
        )
    layouts, others = guide.parts.viewer.layouts, model.parts.viewer.layouts
    for medium in layouts.keys() & others.keys():
        pair = [(each[medium].name, each[medium].config.patches) for each in (layouts, others)]
        if pair[0] != pair[1]:
            stated = [f"{tokens} tokens, layout {name}" for name, tokens in pair]
            raise RequestError(
                f"{_name(guide)} makes {stated[0]} of a tile, {_name(model)} {stated[1]}",
                expected="the same visual tokens in both",
                advice="take a guide of the same vision tower and layout",
                setting="guide",
            )
    _check_kept(model, guide, model.budget)


def _check_kept(model: VLM, guide: VLM, budget: int) -> None:
    """Refuse two models that do not keep the same visual tokens at a budget."""
    ours, theirs = guide.artifact.manifest, model.artifact.manifest
    ways = [None if budget == each.pruning.tokens_before else _way(each) for each in (ours, theirs)]
    if ways[0] != ways[1]:
        raise RequestError(
            f"{_name(guide)} keeps visual tokens by {_way(ours)}, {_name(model)} by {_way(theirs)}",
            expected="the same tokens in both",
            advice="export both with the same --pruner, --merge-dropped and --tower-stage, or with "
            "none",
            setting="guide",
        )
    by_question = ours.vision.selectors or theirs.vision.selectors
    if ways[0] and by_question:  # by embeddings, of which each model has its own
        raise RequestError(
            f"{_name(guide)} and {_name(model)} select visual tokens by the question, each by its "
            "own embeddings",
            expected="the same tokens in both",
            advice="export both with a --pruner that does not read the prompt",
            setting="guide",
        )


def _way(manifest: Manifest) -> str:
    """How visual tokens are kept, in words that tell any two ways apart."""
    pruning, stages = manifest.pruning, manifest.vision.stages
    options = ", ".join(f"{name} {value}" for name, value in sorted(pruning.options.items()))
    way = f"{pruning.method} ({options})" if options else pruning.method
    way += " with dropped ones merged" if pruning.merge_dropped else ""
    return f"{way} behind stages {' '.join(map(str, stages))}" if stages else way


def _grid(picture: PictureInput) -> str:
    """The tokens that are made of a picture, in words that tell any two apart."""
    tokens, grid = picture.layout.token_grid(picture.grid), picture.grid
    whole = f" and the whole {grid.whole}" if grid.whole else ""
    return (
        f"{grid}{whole} tiles of {tokens.rows}x{tokens.columns} tokens, {picture.slots} slots at "
        f"budget {picture.budget}"
    )


def _name(vlm: VLM) -> str:
    return vlm.artifact.root.name
