"""Knows the tensors that a sequence carries from one run of the decoder graph to the next, and how
they are cut back to fewer tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from pocketvlm.ort.signatures import CacheTensor

_FLOAT32_BYTES = 4
_MOST_STATES = 64  # two for each turn of a conversation; of older turns none are held


@dataclass(frozen=True)
class _State:
    """What the convolutions' caches are after ``length`` tokens.

    ``spare`` are the tokens that can be taken back: 1, as the oldest of a convolution's inputs is
    not read again, and 0 where that has been done already.
    """

    length: int
    values: tuple[ort.OrtValue, ...]
    spare: int = 1


class OnnxCache:
    """The cache of one sequence, inside ONNX Runtime: float32 OrtValues in the order of the graph's
    cache.

    Keys and values are cut to any length. The state of a convolution is that of one length, and is
    nothing that could be cut. So those of the lengths at which `mark` was called are held beside
    it, a few kilobytes a layer. From each of them one token can be taken back.
    """

    def __init__(self, tensors: Sequence[CacheTensor]) -> None:
        self._tensors = tuple(tensors)
        self._values: list[ort.OrtValue] = []
        self._length = 0
        self._spare = 1
        self._states: list[_State] = []  # by length, ascending

    @property
    def inputs(self) -> dict[str, ort.OrtValue]:
        """What the graph reads of it, by name; before the first token empty keys and values, and
        states of zeros."""
        values = self._values or [
            ort.OrtValue.ortvalue_from_numpy(np.zeros(tensor.of(0), dtype=np.float32))
            for tensor in self._tensors
        ]
        names = (tensor.past for tensor in self._tensors)
        return dict(zip(names, values, strict=True))

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs that `store` takes, in order."""
        return [tensor.present for tensor in self._tensors]

    @property
    def bytes(self) -> int:
        """Bytes of memory that it takes, those of marked states among them."""
        held = {id(value): value for value in self._values}
        held |= {id(value): value for state in self._states for value in state.values}
        return sum(math.prod(value.shape()) for value in held.values()) * _FLOAT32_BYTES

    def length_of(self, layer: int) -> int:
        """Tokens whose keys and values a layer holds."""
        tensors = zip(self._tensors, self._values, strict=False)
        return next((int(v.shape()[2]) for t, v in tensors if t.layer == layer and t.grows), 0)

    def store(self, values: Sequence[ort.OrtValue], length: int) -> None:
        """Replace it by what a run gave, with which it holds ``length`` tokens."""
        self._values, self._length, self._spare = list(values), length, 1

    def mark(self) -> None:
        """Hold what the convolutions have now, so that `cut` may come back to this length."""
        state = self._state()
        if state.values and state.length and state.length not in (s.length for s in self._states):
            self._states = [*self._states, state][-_MOST_STATES:]

    def within(self, length: int) -> int:
        """The most tokens, ``length`` at most, that it can be cut to."""
        if all(tensor.grows for tensor in self._tensors):
            return min(length, self._length)
        reached = [
            state.length - back
            for state in (*self._states, self._state())
            for back in range(state.spare + 1)
        ]
        return max((each for each in reached if each <= length), default=0)

    def cut(self, length: int) -> None:
        """Leave the first ``length`` tokens, a number that `within` gave."""
        if length == self._length:
            return
        if length == 0:
            self._values, self._length, self._spare, self._states = [], 0, 1, []
            return
        states = [state for state in (*self._states, self._state()) if state.length >= length]
        state = min(states, key=lambda state: state.length)
        back = state.length - length if state.values else 0
        of_convolutions = iter(_taken_back(value) if back else value for value in state.values)
        self._values = [
            _first(value, length) if tensor.grows else next(of_convolutions)
            for tensor, value in zip(self._tensors, self._values, strict=True)
        ]
        self._length, self._spare = length, state.spare - back
        self._states = [state for state in self._states if state.length <= length]

    def fork(self) -> OnnxCache:
        """Another one that holds the same. No run writes into what an earlier one gave, so both
        share the memory until either is cut or continues."""
        other = OnnxCache(self._tensors)
        other._values, other._states = list(self._values), list(self._states)
        other._length, other._spare = self._length, self._spare
        return other

    def _state(self) -> _State:
        """The convolutions' caches as they are now."""
        values = [
            value
            for tensor, value in zip(self._tensors, self._values, strict=False)
            if not tensor.grows
        ]
        return _State(self._length, tuple(values), self._spare)


def _first(value: ort.OrtValue, length: int) -> ort.OrtValue:
    """Keys or values of the first ``length`` tokens, copied."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value.numpy()[:, :, :length]))


def _taken_back(value: ort.OrtValue) -> ort.OrtValue:
    """The state of a convolution, (1, hidden, width), before its last token.

    The oldest input that it would have is gone, and is not read again: zeros take its place.
    """
    state = np.zeros_like(value.numpy())
    state[:, :, 1:] = value.numpy()[:, :, :-1]
    return ort.OrtValue.ortvalue_from_numpy(state)
