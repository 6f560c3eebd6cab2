"""Knows what a decoder's cache holds, so that of a prompt only what differs from the one before is
computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm.decoders import Decoder, EmbeddingSegment, Segment, TokenSegment


class CachedSequence:
    """A decoder that is given whole prompts and computes only what its cache does not hold yet.

    Text is compared token by token, pictures by the keys of their segments. What the cache holds is
    written down after a step has succeeded, so an interrupt at any moment costs a longer prefill,
    never a wrong answer.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._held: list[Segment] = []
        self._said: list[int] = []  # tokens decoded since

    def prefill(self, segments: Sequence[Segment]) -> tuple[npt.NDArray[np.float32], int]:
        """Logits float32 (vocab,) after ``segments``, a whole prompt, and how many of its tokens
        were held already.

        Raises:
            PocketVLMError: see `Decoder.prefill`.
        """
        wanted = joined(segments)
        # The last token is always computed: its logits are what is asked for.
        known = max(0, min(common_length(self._all_held(), wanted), sum(map(len, wanted)) - 1))
        self._held, self._said = [], []
        self._decoder.keep(known)
        known = self._decoder.position
        logits = self._decoder.prefill(after(wanted, known))
        self._held = wanted
        return logits, known

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """See `Decoder.decode`."""
        logits = self._decoder.decode(token_id)
        self._said.append(token_id)
        return logits

    def reset(self) -> None:
        """See `Decoder.reset`."""
        self._held, self._said = [], []
        self._decoder.reset()

    def _all_held(self) -> list[Segment]:
        return joined([*self._held, TokenSegment(np.array(self._said, dtype=np.int64))])


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """The same sequence with neighbouring stretches of text made one, and empty segments left
    out."""
    result: list[Segment] = []
    for segment in segments:
        if len(segment) == 0:
            continue
        last = result[-1] if result else None
        if isinstance(segment, TokenSegment) and isinstance(last, TokenSegment):
            result[-1] = TokenSegment(np.concatenate([last.ids, segment.ids]))
        else:
            result.append(segment)
    return result


def common_length(one: Sequence[Segment], other: Sequence[Segment]) -> int:
    """Tokens that two `joined` sequences begin with alike; a picture counts whole or not at all."""
    length = 0
    for left, right in zip(one, other, strict=False):
        same = _same(left, right)
        length += same
        if not same == len(left) == len(right):
            break
    return length


def after(segments: Sequence[Segment], position: int) -> list[Segment]:
    """The sequence without its first ``position`` tokens."""
    result: list[Segment] = []
    for segment in segments:
        skipped = min(position, len(segment))
        position -= skipped
        if skipped == 0:
            result.append(segment)
        elif skipped < len(segment) and isinstance(segment, TokenSegment):
            result.append(TokenSegment(segment.ids[skipped:]))
        elif skipped < len(segment) and isinstance(segment, EmbeddingSegment):
            result.append(EmbeddingSegment(segment.inputs_embeds[skipped:]))
    return result


def _same(left: Segment, right: Segment) -> int:
    """How many tokens two segments begin with alike."""
    if isinstance(left, TokenSegment) and isinstance(right, TokenSegment):
        shorter = min(len(left), len(right))
        differing = np.flatnonzero(left.ids[:shorter] != right.ids[:shorter])
        return int(differing[0]) if len(differing) else shorter
    if isinstance(left, EmbeddingSegment) and isinstance(right, EmbeddingSegment):
        equal = left.key is not None and left.key == right.key and len(left) == len(right)
        return len(left) if equal else 0
    return 0
