"""Knows how an answer comes about: pictures seen, prompt read, tokens picked one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketvlm.answer import Answer, FinishReason, VisualTokens
from pocketvlm.artifact import Manifest
from pocketvlm.decoders import Decoder, TokenSampler, check_room
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm.errors import RequestError
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.streaming import Detokenizer, Stream
from pocketvlm.vision.viewer import Look, Viewer


@dataclass(frozen=True)
class Sampling:
    """How tokens are picked: see `pocketvlm.VLM.generate`."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """A question made ready: everything that can be refused has been checked.

    Attributes:
        ids: int64 (n,), an image token for each picture.
        looks: its pictures, in order.
        max_new_tokens: the answer's limit.
        sampler: picks the tokens.
        preprocess_ms: spent so far.
        cached: features may come from the cache and go there.
        continued: the decoder keeps what it has computed, before and after, for prompts that begin
            alike.
    """

    ids: npt.NDArray[np.int64]
    looks: Sequence[Look]
    max_new_tokens: int
    sampler: TokenSampler
    preprocess_ms: float
    cached: bool
    continued: bool


@dataclass
class _Speech:
    """What has been said so far."""

    detokenizer: Detokenizer
    token_ids: list[int]
    decode_ms: float = (
        0.0  # picking tokens after the first; not what the reader of the stream does meanwhile
    )
    finish_reason: FinishReason = "length"


class Answerer:
    """The parts of a loaded model at work on one answer at a time."""

    def __init__(
        self, manifest: Manifest, viewer: Viewer, decoder: Decoder, prompter: Prompter
    ) -> None:
        self.viewer = viewer
        self.decoder = decoder
        self.prompter = prompter
        self.load_ms = 0.0
        self._eos = frozenset(manifest.decoder.eos_token_ids)
        self._fastv = manifest.decoder.fastv
        self._sequence = CachedSequence(decoder)
        self._turn = 0  # counts answers begun; only the latest owns the decoder's cache

    def sampler(self, sampling: Sampling) -> TokenSampler:
        """The engine's sampler; raises `PocketVLMError` for a setting out of range."""
        if sampling.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens {sampling.max_new_tokens}", expected="at least 1")
        return self.decoder.sampler(sampling.temperature, sampling.top_p, sampling.seed)

    def check_room(self, prompt: int, max_new_tokens: int) -> None:
        """Refuse a prompt of so many tokens with its answer beyond the context."""
        # The last token picked is never fed back, so it takes no room.
        check_room(prompt, max_new_tokens - 1, self.decoder.context)

    def begin(self, request: Request) -> Stream:
        """The answer as a stream; work begins when it is read."""
        self._turn += 1
        stop = threading.Event()
        return Stream(self._run(request, self._turn, stop), stop.set)

    def forget(self) -> None:
        """Free the decoder's cache."""
        self._turn += 1
        self._sequence.reset()

    def _run(
        self, request: Request, turn: int, stop: threading.Event
    ) -> Generator[str, None, Answer]:
        """Vision, prefill and decoding of one request; yields text pieces and returns the
        answer."""
        self._own_decoder(turn)
        started = time.perf_counter()
        pictures = [self.viewer.see(look, cached=request.cached) for look in request.looks]
        vision_ms = ms_since(started)
        ids = self.prompter.place(request.ids, [look.ids for look in request.looks])
        segments = self.prompter.segments(ids, pictures)
        try:
            if not request.continued:
                self._sequence.reset()
            logits, known = self._sequence.prefill(segments)
            spent, dropped = dict(self.decoder.timings_ms), self.decoder.dropped
            speech = _Speech(Detokenizer(self.prompter.tokenizer), [request.sampler.pick(logits)])
            ttft_ms = request.preprocess_ms + ms_since(started)
            yield from self._speak(request, speech, turn, stop)
        finally:
            if turn == self._turn and not request.continued:
                self._sequence.reset()
        return Answer(
            text=speech.detokenizer.text,
            token_ids=speech.token_ids,
            kept_indices=[look.kept_indices for look in request.looks],
            visual_tokens=self._visual_tokens(
                sum(look.tokens_before for look in request.looks), sum(map(len, pictures)), dropped
            ),
            tokens_per_picture=[len(picture) for picture in pictures],
            prompt_tokens={"total": len(ids), "cached": known},
            decoder=self.decoder.name,
            timings_ms={
                "load": self.load_ms,
                "preprocess": request.preprocess_ms,
                "vision": vision_ms,
                "embed": spent["embed"],
                "prefill": spent["prefill"],
                "ttft": ttft_ms,
                "decode": speech.decode_ms,
                "total": ttft_ms + speech.decode_ms,
            },
            finish_reason=speech.finish_reason,
        )

    def _visual_tokens(self, before: int, after: int, dropped: int) -> VisualTokens:
        if self._fastv is None:
            return {"before": before, "after": after}
        return {"before": before, "after": after, "fastv": after - dropped}

    def _speak(
        self, request: Request, speech: _Speech, turn: int, stop: threading.Event
    ) -> Generator[str, None, None]:
        """Decode token by token from the first until the end of sequence, the limit or a stop;
        yields text pieces."""
        while speech.token_ids[-1] not in self._eos:
            if piece := speech.detokenizer.push(speech.token_ids[-1]):
                yield piece
                self._own_decoder(turn)
            if len(speech.token_ids) == request.max_new_tokens:
                break
            if stop.is_set():
                speech.finish_reason = "interrupted"
                break
            started = time.perf_counter()
            logits = self._sequence.decode(speech.token_ids[-1])
            speech.token_ids.append(request.sampler.pick(logits))
            speech.decode_ms += ms_since(started)
        else:
            speech.finish_reason = "stop"
        if rest := speech.detokenizer.finish():
            yield rest

    def _own_decoder(self, turn: int) -> None:
        if turn != self._turn:
            raise RequestError(
                "another answer was begun on this VLM before this stream ended",
                advice="finish one first",
            )


def ms_since(started: float) -> float:
    """Milliseconds since a `time.perf_counter` reading."""
    return (time.perf_counter() - started) * 1e3
