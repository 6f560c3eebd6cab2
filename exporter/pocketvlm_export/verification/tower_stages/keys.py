"""By keys (SAINT, arXiv 2503.11549): whole matrices of cosines, one a round."""

from collections.abc import Sequence

import numpy as np

from pocketvlm_export.verification.tower_stages.base import (
    TIE,
    Choice,
    Doubles,
    Ints,
    Layer,
    cut,
    distinct,
)

_MOST = 32  # rounds that are gone on with otherwise


def choose(layers: Sequence[Layer], keep: int) -> Choice:
    """Drop the sixteenth part with the largest row sums, at least one, until so many are left.
    Otherwise what comes of dropping another that is as alike, in whichever round."""
    last = layers[-1]
    keys = last.by_token(last.keys[:, last.before :].astype(np.float64).mean(axis=0))
    keys /= np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    kept, doubtful = _drop(keys, np.arange(len(keys)), keep)
    others = (_drop(keys, left, keep)[0] for left in doubtful[:_MOST])
    return Choice(kept, distinct(kept, others))


def _drop(keys: Doubles, left: Ints, keep: int) -> tuple[Ints, list[Ints]]:
    """Drop of what is ``left``; returns what is kept, and what else could be left after a round."""
    doubtful: list[Ints] = []
    while len(left) > keep:
        sums = (keys[left] @ keys[left].T).sum(axis=1)
        after = max(keep, len(left) - max(len(left) // 16, 1))
        kept, others = cut(-sums, after, TIE * len(left))
        doubtful += [left[other] for other in others]
        left = left[kept]
    return left, doubtful
