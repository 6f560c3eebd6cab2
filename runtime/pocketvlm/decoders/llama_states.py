"""Knows how llama.cpp's recurrent layers are brought back to an earlier length: their state cannot
be cut, so copies of it are held."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from pocketvlm.decoders.base import EmbeddingSegment, Segment, TokenSegment
from pocketvlm.decoders.llama_library import LlamaContext
from pocketvlm.decoders.prefix import after
from pocketvlm.decoders.track import Track

_PARTIAL_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: recurrent layers, and no keys and values
_MOST_STATES = 64  # two for each turn of a conversation; of older turns none are held


class RecurrentStates:
    """What the recurrent layers of one sequence were after some of its lengths.

    A llama-cpp-python without the calls for it holds none: then a sequence is read again from the
    beginning where it would be cut.
    """

    def __init__(self, lib: Any, *, wanted: bool) -> None:
        self._lib = lib
        self._wanted = wanted and hasattr(lib, "llama_state_seq_set_data_ext")
        self._states: dict[int, Any] = {}  # by length, in the order in which they were held

    @property
    def bytes(self) -> int:
        """Bytes of memory that they take."""
        return sum(map(len, self._states.values()))

    def hold(self, context: LlamaContext, length: int) -> None:
        """Copy the state, which is that after ``length`` tokens."""
        if not self._wanted or not length or length in self._states:
            return
        size = self._lib.llama_state_seq_get_size_ext(context.pointer, 0, _PARTIAL_ONLY)
        state = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data_ext(
            context.pointer, state, size, 0, _PARTIAL_ONLY
        )
        if written == size:
            self._states[length] = state
        while len(self._states) > _MOST_STATES:
            del self._states[next(iter(self._states))]

    def go_back(self, context: LlamaContext, track: Track) -> Track:
        """Bring the layers back to a track's end, or as near before it as a state is held. Returns
        the track of that length, which is empty where there is none."""
        for length in sorted(held for held in self._states if held <= track.end.length)[::-1]:
            shorter, state = track.cut(length), self._states[length]
            if shorter.end.length == length and self._lib.llama_state_seq_set_data_ext(
                context.pointer, state, len(state), 0, _PARTIAL_ONLY
            ):
                return shorter
        return track.cut(0)

    def reach(self, track: Track) -> Track:
        """The track that `go_back` gives, where llama.cpp takes what it is given."""
        for length in sorted(held for held in self._states if held <= track.end.length)[::-1]:
            if (shorter := track.cut(length)).end.length == length:
                return shorter
        return track.cut(0)

    def copied(self) -> RecurrentStates:
        """The same states for a further sequence; nobody writes into one."""
        other = RecurrentStates(self._lib, wanted=self._wanted)
        other._states = dict(self._states)
        return other

    def forget(self, length: int) -> None:
        """Let go of the states after more tokens than ``length``."""
        self._states = {held: state for held, state in self._states.items() if held <= length}


def apart(segments: Sequence[Segment]) -> list[Segment]:
    """The same sequence, of two tokens or more, with its last token in a segment of its own."""
    *first, last = [segment for segment in segments if len(segment)]
    if len(last) == 1:
        return [*first, last]
    head: Segment
    if isinstance(last, TokenSegment):
        head = TokenSegment(last.ids[:-1])
    else:
        assert isinstance(last, EmbeddingSegment)
        extras = {name: values[:-1] for name, values in last.extras.items()}
        head = EmbeddingSegment(last.inputs_embeds[:-1], extras=extras)
    return [*first, head, *after([last], len(last) - 1)]
