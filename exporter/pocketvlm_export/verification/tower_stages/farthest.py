"""Farthest first: greedy picks over 1 - cosine of what the last layer handed on, a token's patches
side by side."""

from collections.abc import Sequence

import numpy as np

from pocketvlm_export.verification.tower_stages.base import (
    TIE,
    Choice,
    Doubles,
    Ints,
    Layer,
    distinct,
)

_MOST = 32  # picks that are made again


def choose(layers: Sequence[Layer], keep: int) -> Choice:
    """First the token that is farthest from its neighbour, then from all picks. Otherwise what
    comes of another pick that is as far as the best."""
    rows = layers[-1].hidden.reshape(len(layers[-1].places), -1)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    distances = 1 - unit @ unit.T
    kept, doubtful = _pick(distances, keep, [])
    others = (_pick(distances, keep, picks)[0] for picks in doubtful[:_MOST])
    return Choice(kept, distinct(kept, others))


def _pick(distances: Doubles, keep: int, begin: list[int]) -> tuple[Ints, list[list[int]]]:
    """Pick on from ``begin``; returns the picks, ascending, and the beginnings of others that are
    as good up to rounding."""
    tokens = len(distances)
    picks, doubtful = list(begin), []
    for number in range(len(begin), keep):
        left = np.setdiff1d(np.arange(tokens), picks)
        if number:
            far = distances[np.ix_(left, np.array(picks))].min(axis=1)
        else:
            far = (distances + np.diag(np.full(tokens, np.inf))).min(axis=1)
        at = int(np.argmax(far))
        near = np.flatnonzero(far >= far[at] - TIE)
        doubtful += [[*picks, int(left[other])] for other in near if other != at]
        picks.append(int(left[at]))
    return np.sort(np.array(picks)), doubtful
