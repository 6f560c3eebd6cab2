"""Knows which tokens of a sequence attend to which, and the decoder graphs' input for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact.specs import CAUSAL, PICTURES, PROMPT
from pocketvlm.decoders.base import EmbeddingSegment, Segment

# For people, by ``decoder.attention``; empty for causal attention.
TITLES = {
    CAUSAL: "",
    PICTURES: "tokens of one picture attend to each other in both directions",
    PROMPT: "all tokens of a prompt attend to each other, so it is prefilled in one run",
}


def seen_both_ways(segments: Sequence[Segment], attention: str) -> npt.NDArray[np.int64]:
    """The input ``picture_ids`` of one run, int64 (n,). Tokens with the same number attend to each
    other in both directions, those with 0 only to what comes before them.

    Args:
        segments: what is read in this run, after a cache that may be empty.
        attention: ``decoder.attention`` of the manifest. Of ``prompt`` a single token is one of
            the answer, and whatever else is read a whole prompt.
    """
    if attention == PICTURES:
        return picture_ids(segments)
    n = sum(map(len, segments))
    return np.full(n, int(attention == PROMPT and n > 1), dtype=np.int64)


def picture_ids(segments: Sequence[Segment]) -> npt.NDArray[np.int64]:
    """0 for each token of text, for each of a picture its number from 1: int64 (n,)."""
    numbers, pictures = [], 0
    for segment in segments:
        number = 0
        if isinstance(segment, EmbeddingSegment):
            pictures += not (segment.continues and pictures)
            number = pictures
        numbers.append(np.full(len(segment), number, dtype=np.int64))
    return np.concatenate(numbers)
