"""Knows one sequence on llama.cpp: what is fed to it, in which batches, and how it is cut back.

llama.cpp ends the whole process where it is given what it does not expect. So everything is checked
before it is asked: widths, token ids, batch sizes, room in the context.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact.specs import CAUSAL, DecoderSpec
from pocketvlm.decoders.base import Segment, TokenSegment, check_room, check_widths, closed
from pocketvlm.decoders.llama_batches import Batch, batches
from pocketvlm.decoders.llama_library import LlamaContext, LlamaModel, complaint, library
from pocketvlm.decoders.llama_states import RecurrentStates, apart
from pocketvlm.decoders.positions import Positions
from pocketvlm.decoders.track import Track
from pocketvlm.errors import ArtifactError, EngineError


@dataclass(frozen=True)
class Reading:
    """How a sequence is read, beyond what the file says of itself.

    Attributes:
        extras: names of the further features that a picture's tokens have, see `EmbeddingSegment`.
        attention: which tokens see each other, one of `pocketvlm.artifact.specs.ATTENTIONS`.
        first_position: the number of a sequence's first token.
    """

    extras: tuple[str, ...] = ()
    attention: str = CAUSAL
    first_position: int = 0

    @classmethod
    def of(cls, spec: DecoderSpec) -> Self:
        """As a manifest has it."""
        return cls(tuple(spec.extras), spec.attention, spec.first_position)


PLAIN = Reading()


@dataclass(frozen=True)
class ModelFacts:
    """What sequences must know of their model.

    Attributes:
        context: the most tokens of a sequence.
        hidden: width of an embedding.
        vocab: tokens of the vocabulary.
        token_bytes: of one token in the cache, keys and values of all layers.
        positions: how tokens are numbered.
        reading: how they are read besides.
        state_bytes: of what layers of convolutions hold, however long the sequence; 0 of a model
            that has none.
    """

    context: int
    hidden: int
    vocab: int
    token_bytes: int
    positions: Positions
    reading: Reading
    state_bytes: int


class Contexts(Protocol):
    """Where sequences get llama.cpp's contexts from, and give them back to."""

    @property
    def first_capacity(self) -> int:
        """Tokens that the cache of a new sequence holds."""

    def make_context(self, model: LlamaModel, capacity: int) -> LlamaContext:
        """An empty context of so many tokens."""

    def give_back(self, context: LlamaContext) -> None:
        """Take one that is needed no more."""


class LlamaCppSequence:
    """`pocketvlm.decoders.base.DecoderSequence` on llama.cpp: the cache lies inside llama.cpp.

    A context is written when it is made, so none is larger than of use: the first holds
    ``first_capacity`` tokens, each further one twice as many. A new or reset sequence has none.

    Where layers are convolutions `keep` goes back to where a prefill began, or to the last but one
    token of it; from there to the end the prompt is computed again.
    """

    def __init__(self, decoder: Contexts, model: LlamaModel, facts: ModelFacts) -> None:
        self._lib = library()
        self._decoder = decoder
        self._model: LlamaModel | None = model
        self._facts = facts
        self._contexts: list[LlamaContext] = []  # one or none
        reading = facts.reading
        self._track = Track(facts.positions, reading.attention, first=reading.first_position)
        self._states = RecurrentStates(self._lib, wanted=facts.state_bytes > 0)
        self._parked: Any = None  # the state that a fork begins with, until it has a context
        self.dropped: tuple[int, ...] = ()
        self.timings_ms: dict[str, float] = {}

    @property
    def length(self) -> int:
        """See `DecoderSequence`."""
        return self._track.end.length

    @property
    def next_position(self) -> int:
        """See `DecoderSequence`."""
        return self._track.end.position

    @property
    def cache_bytes(self) -> int:
        """See `DecoderSequence`: what llama.cpp has set aside, filled or not."""
        cells = sum(context.cells for context in self._contexts)
        held = len(self._contexts) * self._facts.state_bytes + self._states.bytes
        held += 0 if self._parked is None else len(self._parked)
        return cells * self._facts.token_bytes + held

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.prefill`; llama.cpp looks token embeddings up itself, so ``embed``
        takes no time."""
        tokens = check_widths(segments, self._facts.hidden, self._facts.reading.extras)
        check_room(self.length, tokens, self._facts.context)
        for segment in segments:
            if isinstance(segment, TokenSegment):
                self._check_ids(segment.ids)
        started = time.perf_counter()
        logits = self._append(segments)
        self.timings_ms = {"embed": 0.0, "prefill": (time.perf_counter() - started) * 1e3}
        return logits

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.decode`."""
        check_room(self.length, 1, self._facts.context)
        ids = np.array([token_id], dtype=np.int64)
        self._check_ids(ids)
        return self._append([TokenSegment(ids)])

    def keep(self, length: int) -> None:
        """See `DecoderSequence.keep`."""
        track = self._track.cut(length)
        if track.end.length < self.length:
            if self._parked is not None and track.end.length:
                self._reserve(self.length)  # what is parked can only be cut in a context
            self._parked = None
            self._cut(track)

    def reach(self, length: int) -> int:
        """See `DecoderSequence.reach`."""
        track = self._track.cut(length)
        if self._facts.state_bytes and track.end != self._track.end:
            track = self._states.reach(track)
        return track.end.length

    def fork(self, length: int) -> LlamaCppSequence:
        """See `DecoderSequence.fork`: llama.cpp's state of what is taken, which goes into a context
        once the sequence is used. Where llama.cpp gives no state it takes nothing."""
        if self._model is None:
            raise closed("this sequence")
        other = LlamaCppSequence(self._decoder, self._model, self._facts)
        track = self._track if self._facts.state_bytes else self._track.cut(length)
        if self._parked is not None:
            other._parked, track = self._parked, self._track
        elif self._contexts and track.end.length:
            other._parked = self._contexts[0].state_of(track.end.position)
        if other._parked is not None:
            other._track, other._states = track, self._states.copied()
            other.keep(self.reach(length))
        return other

    def reset(self) -> None:
        """See `DecoderSequence.reset`."""
        self._track, self._parked = self._track.cut(0), None
        self._states.forget(0)
        while self._contexts:
            self._decoder.give_back(self._contexts.pop())

    def close(self) -> None:
        """See `DecoderSequence.close`."""
        self.reset()
        self._model = None

    def _append(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """Feed segments in batches; should one fail, the sequence is what it was."""
        before = self._track
        _, after = before.extended(segments)
        context = self._reserve(after.end.length)
        try:
            if self._facts.state_bytes and after.end.length - before.end.length > 1:
                self._states.hold(context, before.end.length)
                *first, last = apart(segments)
                middle = self._read(context, first, before)
                self._states.hold(context, middle.end.length)
                self._read(context, [last], middle)
            else:
                self._read(context, segments, before)
            logits = self._logits(context)
            self._track = after
            return logits
        except BaseException:  # an interrupt may come between llama.cpp's step and ours
            self._cut(before)
            raise

    def _read(self, context: LlamaContext, segments: Sequence[Segment], before: Track) -> Track:
        """Feed segments behind what ``before`` has; returns the track with them."""
        numbers, after = before.extended(segments)
        counts = context.planes == 1 and self._facts.reading.first_position == 0
        for batch in batches(
            segments,
            numbers,
            planes=context.planes,
            limit=context.batch,
            extras=self._facts.reading.extras,
            counts=counts,
            attention=self._facts.reading.attention,
        ):
            self._feed(context, batch)
        return after

    def _feed(self, context: LlamaContext, read: Batch) -> None:
        """One batch, after what the only sequence holds."""
        values = read.values
        # All zero: llama.cpp then counts positions itself and gives the last logits.
        batch = self._lib.llama_batch()
        batch.n_tokens = len(values)
        if values.dtype == np.int32:
            batch.token = values.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        else:
            batch.embd = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if read.pos is not None:
            batch.pos = read.pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        # Always said: an interrupt may have come before it was taken back.
        self._lib.llama_set_causal_attn(context.pointer, read.causal)
        if code := self._lib.llama_decode(context.pointer, batch):
            raise EngineError(
                f"llama.cpp failed on {len(values)} tokens with code {code}{complaint()}",
                advice="try a shorter prompt",
            )

    def _logits(self, context: LlamaContext) -> npt.NDArray[np.float32]:
        """The last position's, float32 (vocab,), copied: llama.cpp overwrites its own."""
        pointer = self._lib.llama_get_logits_ith(context.pointer, -1)
        if not pointer:
            raise EngineError(
                f"llama.cpp gave no logits{complaint()}",
                advice="try another decoder engine or precision",
            )
        logits: npt.NDArray[np.float32] = np.ctypeslib.as_array(
            pointer, shape=(self._facts.vocab,)
        ).copy()
        return logits

    def _cut(self, track: Track) -> None:
        """Leave what a track has. llama.cpp removes by position, not by number of tokens: all that
        a picture has by M-RoPE share their time, so a track's end is never inside one."""
        for context in self._contexts:
            if self._facts.state_bytes and track.end != self._track.end:
                track = self._states.go_back(context, track)
            memory, end = self._memory(context), track.end.position
            removed = self._lib.llama_memory_seq_rm(memory, 0, end, -1)
            if not removed or self._lib.llama_memory_seq_pos_max(memory, 0) >= end:
                track = track.cut(0)  # some architectures' state cannot be cut
                self._lib.llama_memory_clear(memory, True)
        self._track = track
        self._states.forget(track.end.length)

    def _memory(self, context: LlamaContext) -> Any:
        return self._lib.llama_get_memory(context.pointer)

    def _check_ids(self, ids: npt.NDArray[np.int64]) -> None:
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._facts.vocab:
            raise ArtifactError(
                (
                    f"token ids {ids.min()}..{ids.max()} are not within the vocabulary of "
                    f"{self._facts.vocab}"
                ),
                advice="the tokenizer belongs to another model, export it again",
            )

    def _reserve(self, needed: int) -> LlamaContext:
        """A context with room for so many tokens in all, and what the sequence holds in it."""
        if self._model is None:
            raise closed("this sequence")
        current = self._contexts[0] if self._contexts else None
        if current is not None and needed <= current.capacity:
            return current
        first = self._decoder.first_capacity
        capacity = min(self._facts.context, max(first, 1 << (needed - 1).bit_length()))
        fresh = self._decoder.make_context(self._model, capacity)
        if self.length:
            self._fill(fresh, self._parked if current is None else current.state_of())
        self._contexts[:], self._parked = [fresh], None
        if current is not None:
            current.free()
        return fresh

    def _fill(self, fresh: LlamaContext, state: Any) -> None:
        """Bring what the sequence holds into a new context."""
        size = 0 if state is None else len(state)
        if not size or not self._lib.llama_state_seq_set_data(fresh.pointer, state, size, 0):
            fresh.free()
            raise EngineError(
                f"llama.cpp cannot enlarge its cache{complaint()}",
                advice="start a new conversation",
            )
