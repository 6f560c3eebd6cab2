"""Knows llama.cpp, the only module that does: a GGUF decoder through llama-cpp-python's low-level
calls.

llama.cpp ends the whole process where it is given what it does not expect. So everything is checked
before it is asked: the file's header (`pocketvlm.decoders.gguf_header`), widths, token ids, batch
sizes, room in the context. Leave the environment variable OMP_WAIT_POLICY unset: ``passive`` halves
llama.cpp's speed.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact, pick_precision
from pocketvlm.artifact.manifest import CAUSAL
from pocketvlm.decoders.base import (
    Segment,
    TokenSegment,
    check_room,
    check_widths,
    closed,
)
from pocketvlm.decoders.gguf_header import GgufHeader, expected_dimensions, read_header
from pocketvlm.decoders.llama_batches import Batch, batches
from pocketvlm.decoders.llama_library import (
    LlamaContext,
    LlamaModel,
    check_process,
    complaint,
    library,
)
from pocketvlm.decoders.llama_states import RecurrentStates, apart
from pocketvlm.decoders.positions import Positions, positions_named
from pocketvlm.decoders.track import Track
from pocketvlm.errors import ArtifactError, EngineError
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings, physical_cores

_FIRST_CAPACITY = 1024  # tokens; the cache doubles when a sequence needs more, up to the context


@dataclass(frozen=True)
class _Size:
    """What sequences must know of their model.

    Attributes:
        context: the most tokens of a sequence.
        hidden: width of an embedding.
        vocab: tokens of the vocabulary.
        token_bytes: of one token in the cache, keys and values of all layers.
        positions: how tokens are numbered.
        extras: names of the further features that a picture's tokens have, see `EmbeddingSegment`.
        attention: which of them see each other.
        first_position: of the first of them.
        state_bytes: of what layers of convolutions hold, however long the sequence; 0 of a model
            that has none.
    """

    context: int
    hidden: int
    vocab: int
    token_bytes: int
    positions: Positions
    extras: tuple[str, ...] = ()
    attention: str = CAUSAL
    first_position: int = 0
    state_bytes: int = 0


class LlamaCppDecoder:
    """`pocketvlm.decoders.base.Decoder` on llama.cpp: memory-mapped weights, which sequences share.

    Every sequence has a llama.cpp context of its own. One idle context of the first size is kept,
    so that a new sequence costs next to nothing, unless a sequence needs a larger one.
    """

    def __init__(
        self,
        path: Path,
        header: GgufHeader,
        *,
        context: int,
        name: str,
        settings: EngineSettings,
        f32_cache: bool,
        extras: tuple[str, ...] = (),
        attention: str = CAUSAL,
        first_position: int = 0,
    ) -> None:
        """Load a file whose header has been read and checked; see `open` and `from_file`."""
        self._lib = library()
        self.name = name
        self.context = context
        self.cache_value_bytes = 4 if f32_cache else 2
        convolutions = len(header.conv_layers)
        numbers = 2 * (header.layers - convolutions) * header.kv_heads * header.head_dim
        self._size = _Size(
            context,
            header.hidden,
            header.vocab,
            token_bytes=numbers * self.cache_value_bytes,
            positions=positions_named(header.positions),
            extras=extras,
            attention=attention,
            first_position=first_position,
            state_bytes=4 * convolutions * header.hidden * max(0, header.conv_width - 1),
        )
        threads = settings.threads or physical_cores()
        check_process(threads)
        self._options: dict[str, Any] = {
            "n_threads": threads,
            "n_threads_batch": threads,
            "flash_attn_type": 0,  # off: it orders sums otherwise
            "swa_full": True,  # else a sliding window's cache could not be cut back
        }
        if f32_cache:
            kind = self._lib.GGML_TYPE_F32
            self._options |= {"type_k": kind, "type_v": kind}
        # At most one. Lists take and give single items without a lock, from any thread.
        self._idle: list[LlamaContext] = []
        self._model: LlamaModel | None = LlamaModel(self._lib, path)
        if (self._model.planes > 1) != (self._size.positions.axes > 1):
            raise EngineError(
                f"llama.cpp reads {self._model.planes} numbers of a position from {path.name}, "
                f"which is made for {header.positions} positions",
                advice="use another version of llama-cpp-python",
            )
        if self._model.input_width != header.hidden * (1 + len(extras)):
            raise EngineError(
                f"llama.cpp reads embeddings of {self._model.input_width} numbers from {path.name},"
                f" which is made for {header.hidden} and {len(extras)} further features",
                advice="use another version of llama-cpp-python",
            )
        self._idle.append(self.make_context(self._model, self.first_capacity))

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        precision: str | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> Self:
        """Open the artifact's GGUF file of a precision; None is the default. See `from_file`
        for the errors.

        Of ``settings`` only the threads are read: llama.cpp repacks or maps weights by their type,
        and computes on the CPU.
        """
        spec = artifact.manifest.decoder
        positions_named(spec.positions)  # refuses what this runtime does not have, before any work
        precision = precision or spec.default_precisions["llama.cpp"]
        path = artifact.path(pick_precision(spec.gguf, precision, "GGUF decoder"))
        return cls._load(
            path,
            expected_dimensions(spec),
            settings=settings,
            name=f"llama.cpp {precision}",
            extras=spec.extras,
            attention=spec.attention,
            first_position=spec.first_position,
        )

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        context: int,
        hidden: int,
        vocab: int,
        positions: str = "contiguous",
        extras: Sequence[str] = (),
        attention: str = CAUSAL,
        settings: EngineSettings = DEFAULT_SETTINGS,
        f32_cache: bool = False,
        first_position: int = 0,
    ) -> Self:
        """Open a GGUF file.

        Args:
            path: the file.
            context: the most tokens of a sequence; its cache grows up to that as it is needed.
            hidden: width of the embeddings that the file must have.
            vocab: tokens that the file must have.
            positions: how its architecture must number tokens.
            extras: names of the further features that it must read, see `EmbeddingSegment`.
            attention: which of them see each other.
            settings: see `open`.
            f32_cache: keep keys and values in float32 instead of float16.
            first_position: the number of a sequence's first token.

        Raises:
            PocketVLMError: llama-cpp-python is missing, or the file is damaged, unsafe to open, or
                another model's.
        """
        return cls._load(
            path,
            {
                "hidden": hidden,
                "vocab": vocab,
                "context": context,
                "positions": positions,
                "extras": len(extras),
            },
            settings=settings,
            name="llama.cpp",
            f32_cache=f32_cache,
            extras=tuple(extras),
            attention=attention,
            first_position=first_position,
        )

    @classmethod
    def _load(
        cls,
        path: Path,
        expected: dict[str, Any],
        *,
        settings: EngineSettings,
        name: str,
        f32_cache: bool = False,
        extras: tuple[str, ...] = (),
        attention: str = CAUSAL,
        first_position: int = 0,
    ) -> Self:
        header = read_header(path)
        header.check(path.name, **expected)
        return cls(
            path,
            header,
            context=expected["context"],
            name=name,
            settings=settings,
            f32_cache=f32_cache,
            extras=extras,
            attention=attention,
            first_position=first_position,
        )

    @property
    def first_capacity(self) -> int:
        """Tokens that the cache of a new sequence holds."""
        return min(self.context, _FIRST_CAPACITY)

    def sequence(self) -> LlamaCppSequence:
        """See `Decoder.sequence`."""
        if self._model is None:
            raise closed(f"the decoder {self.name}")
        return LlamaCppSequence(self, self._model, self._size)

    def close(self) -> None:
        """See `Decoder.close`."""
        self._model = None
        self._idle.clear()

    def make_context(self, model: LlamaModel, capacity: int) -> LlamaContext:
        """An empty context; the idle one, where there is one of that size.

        A larger one takes the idle one's room: with a 7B model 1024 tokens are 512 MiB.
        """
        if capacity > self.first_capacity:
            self._idle.clear()
        else:
            with suppress(IndexError):
                return self._idle.pop()
        return LlamaContext(self._lib, model, capacity, self._options)

    def give_back(self, context: LlamaContext) -> None:
        """Take a context that its sequence needs no more: keep it as the idle one, or free it."""
        if not context.free.alive:
            return  # where a stream and its model are garbage together, this is freed first
        if self._model is None or self._idle or context.capacity != self.first_capacity:
            context.free()
            return
        self._lib.llama_memory_clear(self._lib.llama_get_memory(context.pointer), True)
        self._idle.append(context)
        if self._model is None:  # closed meanwhile, by another thread
            self._idle.clear()


class LlamaCppSequence:
    """`pocketvlm.decoders.base.DecoderSequence` on llama.cpp: the cache lies inside llama.cpp.

    A context is written when it is made, so none is larger than of use: the first holds
    ``first_capacity`` tokens, each further one twice as many. A new or reset sequence has none.

    Where layers are convolutions `keep` goes back to where a prefill began, or to the last but one
    token of it; from there to the end the prompt is computed again.
    """

    def __init__(self, decoder: LlamaCppDecoder, model: LlamaModel, size: _Size) -> None:
        self._lib = library()
        self._decoder = decoder
        self._model: LlamaModel | None = model
        self._size = size
        self._contexts: list[LlamaContext] = []  # one or none
        self._track = Track(size.positions, size.attention, first=size.first_position)
        self._states = RecurrentStates(self._lib, wanted=size.state_bytes > 0)
        self.dropped = 0
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
        held = len(self._contexts) * self._size.state_bytes + self._states.bytes
        return cells * self._size.token_bytes + held

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.prefill`; llama.cpp looks token embeddings up itself, so ``embed``
        takes no time."""
        tokens = check_widths(segments, self._size.hidden, self._size.extras)
        check_room(self.length, tokens, self._size.context)
        for segment in segments:
            if isinstance(segment, TokenSegment):
                self._check_ids(segment.ids)
        started = time.perf_counter()
        logits = self._append(segments)
        self.timings_ms = {"embed": 0.0, "prefill": (time.perf_counter() - started) * 1e3}
        return logits

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.decode`."""
        check_room(self.length, 1, self._size.context)
        ids = np.array([token_id], dtype=np.int64)
        self._check_ids(ids)
        return self._append([TokenSegment(ids)])

    def keep(self, length: int) -> None:
        """See `DecoderSequence.keep`."""
        track = self._track.cut(length)
        if track.end.length < self.length:
            self._cut(track)

    def reset(self) -> None:
        """See `DecoderSequence.reset`."""
        self._track = self._track.cut(0)
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
            if self._size.state_bytes and after.end.length - before.end.length > 1:
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
        counts = context.planes == 1 and self._size.first_position == 0
        for batch in batches(
            segments,
            numbers,
            planes=context.planes,
            limit=context.batch,
            extras=self._size.extras,
            counts=counts,
            attention=self._size.attention,
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
            pointer, shape=(self._size.vocab,)
        ).copy()
        return logits

    def _cut(self, track: Track) -> None:
        """Leave what a track has. llama.cpp removes by position, not by number of tokens: all that
        a picture has by M-RoPE share their time, so a track's end is never inside one."""
        for context in self._contexts:
            if self._size.state_bytes and track.end != self._track.end:
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
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._size.vocab:
            raise ArtifactError(
                (
                    f"token ids {ids.min()}..{ids.max()} are not within the vocabulary of "
                    f"{self._size.vocab}"
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
        capacity = min(self._size.context, max(first, 1 << (needed - 1).bit_length()))
        fresh = self._decoder.make_context(self._model, capacity)
        if current is not None and self.length:
            self._copy(current, fresh)
        self._contexts[:] = [fresh]
        if current is not None:
            current.free()
        return fresh

    def _copy(self, current: LlamaContext, fresh: LlamaContext) -> None:
        """Bring what the sequence holds into another context."""
        size = self._lib.llama_state_seq_get_size(current.pointer, 0)
        state = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data(current.pointer, state, size, 0)
        if not written or not self._lib.llama_state_seq_set_data(fresh.pointer, state, written, 0):
            raise EngineError(
                f"llama.cpp cannot enlarge its cache{complaint()}",
                advice="start a new conversation",
            )
