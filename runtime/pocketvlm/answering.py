"""Knows how an answer comes about: pictures encoded, a prompt prefilled, tokens decoded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pocketvlm.answer import Answer, FinishReason, SelectTime, VisualTokens
from pocketvlm.artifact import Manifest
from pocketvlm.decoders.base import Decoder, EmbeddingSegment, check_room
from pocketvlm.decoders.constraints import Constraint, Grammars
from pocketvlm.decoders.fair_lock import FairLock
from pocketvlm.decoders.pool import ConversationCache, PooledSequence, SequencePool
from pocketvlm.decoders.sampler import Sampler
from pocketvlm.decoders.sampling import Sampling, checkpoint_sampling
from pocketvlm.decoders.witness import Witness
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.limits import SequenceLimits
from pocketvlm.text.decoding import token_bytes
from pocketvlm.text.messages import Message
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.streaming import Detokenizer, Stream
from pocketvlm.vision.viewer import PictureInput, Viewer

_log = logging.getLogger(__name__)


class Abandoned(Exception):
    """An answer that nobody waits for any more; it ended before its next step."""


def without_guide() -> RequestError:
    """The refusal of questions to a model that ranks visual tokens by a guide's scores but has no
    guide."""
    return RequestError(
        "this decoder drops visual tokens by the scores of a guide, and there is none",
        advice="answer with `pocketvlm run DIR --guide SMALL`, SMALL exported with "
        "--decoder-scores",
        setting="guide",
    )


@dataclass(frozen=True)
class Guidance:
    """What a guide says of the pictures of a prompt.

    Attributes:
        scores: of each picture, float32 (n,): how much each of its visual tokens matters.
        kept_indices: which patches these are, as `Answer` has them.
        name: the guide's, for refusals.
    """

    scores: Sequence[npt.NDArray[np.float32]]
    kept_indices: Sequence[Sequence[int]]
    name: str

    def beside(
        self, pictures: Sequence[PictureInput], features: Sequence[EmbeddingSegment]
    ) -> list[EmbeddingSegment]:
        """The features of encoded pictures with their scores; raises `RequestError` where other
        patches were kept than those that the guide looked at."""
        for picture, feature, scores, kept in zip(
            pictures, features, self.scores, self.kept_indices, strict=True
        ):
            if picture.kept_indices != kept or len(feature) != len(scores):
                raise RequestError(
                    f"{self.name} keeps other visual tokens of a picture than the model that it "
                    "guides",
                    expected="the same ones in both",
                    advice="export both with --pruner none, or from checkpoints of one tower",
                    setting="guide",
                )
        return [
            replace(feature, visual_scores=scores)
            for feature, scores in zip(features, self.scores, strict=True)
        ]


@dataclass(frozen=True)
class Request:
    """A question made ready: everything that can be refused has been checked.

    Attributes:
        ids: int64 (n,), an image token for each picture. pictures: its pictures, in order.
        sampling: how tokens are picked, and when the answer ends, as it was asked for.
        preprocess_ms: spent so far. cached: features may come from the feature cache and go there.
        conversation: whose KV cache is used and extended; None for a question of none. reused: the
        answer continues from what other sequences hold of its prompt, and leaves its own
            for others. Else that of no conversation ends with the answer.
        guidance: what a decoder that is given its scores ranks visual tokens by; None for others.
        witness: takes down how sure the answer is and what it looked at; None where nobody asks.
        question: token ids int64 (T,) of the user's text in the last message, where the method
            reads the prompt.
        gone: set, from any thread, where nobody waits for the answer any more; it then ends with
            `Abandoned` instead of taking its next step. None where it runs to its end.
    """

    ids: npt.NDArray[np.int64]
    pictures: Sequence[PictureInput]
    sampling: Sampling
    preprocess_ms: float
    cached: bool
    conversation: ConversationCache | None = None
    reused: bool = False
    guidance: Guidance | None = None
    witness: Witness | None = None
    question: npt.NDArray[np.int64] | None = None
    gone: threading.Event | None = None

    def check_wanted(self) -> None:
        """Raise `Abandoned` where nobody waits for the answer any more."""
        if self.gone is not None and self.gone.is_set():
            raise Abandoned

    def pick(self, sampler: Sampler, logits: npt.NDArray[np.float32]) -> int:
        """The next token, taken down by the witness."""
        token = sampler.pick(logits)
        if self.witness is not None:
            self.witness.picked(logits, token)
        return token


@dataclass
class _Generation:
    """The tokens of an answer so far.

    Attributes:
        sampler: picked them.
        detokenizer: has read all of them but the end of sequence.
        token_ids: all of them.
        decode_ms: spent on tokens after the first; not what the reader of the stream does
            meanwhile.
        finish_reason: why there is no further one.
    """

    sampler: Sampler
    detokenizer: Detokenizer
    token_ids: list[int]
    decode_ms: float = 0.0
    finish_reason: FinishReason = "length"


class Answerer:
    """The parts of a loaded model at work on any number of answers.

    Answers share the engines step by step: one picture encoded, one prefill, one token decoded. The
    lock is held for a step, never while a stream waits for its reader, and goes to whoever has
    waited longest.

    Attributes:
        viewer, decoder, prompter: the parts.
        pool: KV caches.
        sampling: the checkpoint's own, which an answer takes what it is not asked for from.
        load_ms: spent on loading.
        step: the lock.
    """

    def __init__(
        self,
        manifest: Manifest,
        viewer: Viewer,
        decoder: Decoder,
        prompter: Prompter,
        limits: SequenceLimits | None = None,
    ) -> None:
        self.viewer = viewer
        self.decoder = decoder
        self.prompter = prompter
        self.sampling = checkpoint_sampling(manifest.generation)
        self.pool = SequencePool(decoder, limits, lambda: prompter.beginning)
        self.load_ms = 0.0
        self._eos = frozenset(manifest.decoder.eos_token_ids)
        self._grammars = Grammars(lambda: token_bytes(prompter.tokenizer), self._eos)
        self._reads_scores = manifest.decoder.reads_scores
        self.step = FairLock()

    def loaded_late(self, spent_ms: float) -> None:
        """Count milliseconds of loading that came after the rest."""
        self.load_ms += spent_ms

    def check_room(self, prompt: int, sampling: Sampling) -> None:
        """Refuse a prompt of so many tokens with its answer beyond the context."""
        # The last token picked is never fed back, so it takes no room.
        check_room(prompt, sampling.max_new_tokens - 1, self.decoder.context)

    def room(self, request: Request) -> int:
        """Tokens that the answer to a request may have at most, by the context; at least 1 of one
        that was not refused."""
        pictures = [picture.ids for picture in request.pictures]
        prompt = len(self.prompter.place(request.ids, pictures))
        return self.decoder.context - prompt + 1  # see `check_room`

    def begin(self, request: Request) -> Stream:
        """The answer as a stream; work begins when it is read. What cannot be asked of this model
        is refused here."""
        if self._reads_scores and request.pictures and request.guidance is None:
            raise without_guide()
        stop = threading.Event()
        request = replace(request, sampling=request.sampling.over(self.sampling).settled())
        constraint = self._grammars.constraint(request.sampling.json_schema)
        return Stream(self._run(request, constraint, stop), stop.set)

    def forget(self, conversation: ConversationCache) -> None:
        """Free the KV cache of a conversation."""
        self.pool.check_process()
        with self.step:
            self.pool.forget(conversation)

    def close(self, *, with_decoder: bool) -> None:
        """Free all KV caches, and the decoder if nobody else uses it; answers in progress run to
        their end. A process that was forked since frees nothing, because nothing is its own."""
        if self.pool.is_forked:
            return
        with self.step:
            self.pool.close()
            if with_decoder:
                self.decoder.close()

    def _run(
        self, request: Request, constraint: Constraint | None, stop: threading.Event
    ) -> Generator[str, None, Answer]:
        """Vision, prefill and decoding of one request; yields text pieces and returns the
        answer."""
        self.pool.check_process()
        started, loaded_ms = time.perf_counter(), self.load_ms
        request, given = self._afresh(request), request.pictures
        features, vision_ms = self._encode(request)
        anew = _note_kept(given, request.pictures)
        ids = self.prompter.place(request.ids, [picture.ids for picture in request.pictures])
        segments = self.prompter.segments(ids, features)
        with self.step:
            cached = self.pool.borrow(request.conversation, segments if request.reused else None)
        try:
            with self.step:
                request.check_wanted()
                logits, cached_tokens = cached.prefill(segments)
                self.pool.trim()
            before = sum(picture.tokens_before for picture in request.pictures)
            dropped = before - sum(map(len, features))
            sampler = Sampler(
                request.sampling, ids, self._eos, dropped=dropped, constraint=constraint
            )
            detokenizer = Detokenizer(self.prompter.tokenizer, request.sampling.stop or ())
            generation = _Generation(sampler, detokenizer, [request.pick(sampler, logits)])
            prefill, later = dict(cached.sequence.timings_ms), cached.sequence.dropped
            # A decoder that is opened late is opened within; that is loading all the same.
            late_ms = self.load_ms - loaded_ms
            ttft_ms = request.preprocess_ms + ms_since(started) - late_ms
            yield from self._decode(request, generation, cached, stop)
            if request.witness is not None:
                request.witness.kept_indices = [each.kept_indices for each in request.pictures]
                request.witness.looked(cached.sequence, [len(feature) for feature in features])
            if request.reused:
                self._keep_beginning(cached)
        finally:
            # Takes no lock: of a stream that nobody holds any more this may run in any thread.
            self.pool.give_back(cached, request.conversation)
        with self.step:
            self.pool.trim()
        return Answer(
            text=generation.detokenizer.text,
            token_ids=generation.token_ids,
            kept_indices=[picture.kept_indices for picture in request.pictures],
            visual_tokens=_visual_tokens(before, before - dropped, later),
            tokens_per_picture=[len(feature) for feature in features],
            prompt_tokens={"total": len(ids), "cached": cached_tokens},
            decoder=self.decoder.name,
            timings_ms={
                "load": self.load_ms,
                "preprocess": request.preprocess_ms,
                "vision": vision_ms,
                **self._select_ms(request),
                "embed": prefill["embed"],
                "prefill": prefill["prefill"],
                "ttft": ttft_ms,
                "decode": generation.decode_ms,
                "total": ttft_ms + generation.decode_ms,
            },
            finish_reason=generation.finish_reason,
            pictures_below_budget=sum(picture.below_budget for picture in request.pictures),
            pictures_reduced=sum(picture.reduced for picture in request.pictures),
            pictures_selected_anew=anew,
            caps={name: cap for each in request.pictures for name, cap in each.layout.caps.items()},
        )

    def _keep_beginning(self, cached: PooledSequence) -> None:
        """See `SequencePool.keep_beginning`. It is for later answers: this one has been streamed,
        and is not lost where memory is short."""
        try:
            with self.step:
                self.pool.keep_beginning(cached)
        except PocketVLMError as error:
            _log.debug("the beginning of prompts is not kept: %s", error)

    def question(self, message: Message) -> npt.NDArray[np.int64] | None:
        """What `Request.question` holds of the user's last message."""
        return self.prompter.question(message) if self.viewer.reads_prompt else None

    def _afresh(self, request: Request) -> Request:
        """The request with pictures that no other answer of the conversation changes, where each
        question selects again."""
        if request.question is None or not request.cached:
            return request
        pictures = [
            picture.afresh() if self.viewer.selects_anew(picture) else picture
            for picture in request.pictures
        ]
        return replace(request, pictures=pictures)

    def _select_ms(self, request: Request) -> SelectTime:
        if request.question is None:
            return {}
        return {"select": sum(picture.select_ms for picture in request.pictures)}

    def _encode(self, request: Request) -> tuple[list[EmbeddingSegment], float]:
        """The features of each picture, and the milliseconds that they took."""
        features, spent_ms = [], 0.0
        for picture in request.pictures:
            with self.step:
                request.check_wanted()
                started = time.perf_counter()
                features.append(
                    self.viewer.encode(picture, cached=request.cached, question=request.question)
                )
                spent_ms += ms_since(started)
        if request.guidance is not None:
            features = request.guidance.beside(request.pictures, features)
        return features, spent_ms

    def _decode(
        self,
        request: Request,
        generation: _Generation,
        cached: PooledSequence,
        stop: threading.Event,
    ) -> Generator[str, None, None]:
        """Decode token by token from the first until the end of sequence, a stop text, the limit
        or a request to stop; yields text pieces."""
        while generation.token_ids[-1] not in self._eos:
            if piece := generation.detokenizer.push(generation.token_ids[-1]):
                yield piece
            if generation.detokenizer.stopped:
                generation.finish_reason = "stop"
                break
            if len(generation.token_ids) == request.sampling.max_new_tokens:
                if generation.sampler.is_whole:
                    generation.finish_reason = "stop"
                break
            if stop.is_set():
                generation.finish_reason = "interrupted"
                break
            self.pool.check_process()  # a stream may be read on behind a fork
            started = time.perf_counter()
            with self.step:
                request.check_wanted()
                logits = cached.decode(generation.token_ids[-1])
            generation.token_ids.append(request.pick(generation.sampler, logits))
            generation.decode_ms += ms_since(started)
        else:
            generation.finish_reason = "stop"
        if rest := generation.detokenizer.finish():
            yield rest
        if generation.detokenizer.stopped:  # a stop text may be complete only now
            generation.finish_reason = "stop"


def _note_kept(given: Sequence[PictureInput], encoded: Sequence[PictureInput]) -> int:
    """Of how many pictures of a conversation other tokens are kept than for the question before;
    what is kept now is noted for the next."""
    anew = 0
    for original, picture in zip(given, encoded, strict=True):
        if picture is original or picture.features is None:
            continue
        kept = tuple(each.kept_indices for each in picture.features)
        before = original.last_kept
        anew += before is not None and not all(map(np.array_equal, kept, before))
        original.last_kept = kept
    return anew


def ms_since(started: float) -> float:
    """Milliseconds since a `time.perf_counter` reading."""
    return (time.perf_counter() - started) * 1e3


def _visual_tokens(before: int, after: int, dropped: Sequence[int]) -> VisualTokens:
    """``dropped`` is what each stage of the decoder has left behind of those after pruning."""
    tokens: VisualTokens = {"before": before, "after": after}
    if dropped:
        tokens["stages"] = [after - count for count in dropped]
    return tokens
