"""Knows which kept token each dropped one is nearest to, written again in numpy and float64: for
methods that merge, and for ``--merge-dropped``."""

import numpy as np
import numpy.typing as npt

from pocketvlm_export.verification.oracles.base import Doubles, Ints, Mixture

# Cosines of what two programs computed in float32, within which either may be the larger.
_ROUNDING = 1e-5


def average_dropped(vectors: Doubles, kept: Ints) -> Mixture:
    """Each kept token and the dropped ones nearest to it, by the cosines of ``vectors`` (N, C),
    become their mean."""
    dropped = np.setdiff1d(np.arange(len(vectors)), kept)
    nearest, certain = assign(vectors, dropped, kept)
    weights = np.eye(len(vectors))[kept]
    for token, place in zip(dropped, nearest, strict=True):
        weights[place, token] = 1.0
    return Mixture(weights / weights.sum(axis=1, keepdims=True), certain)


def assign(vectors: Doubles, tokens: Ints, to: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return for each of ``tokens`` which of ``to`` it is nearest to, its place in there, of equals
    the first; and which of ``to`` no token belongs to by less than a rounding, (len(to),)."""
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = vectors / norms
    certain = np.ones(len(to), dtype=bool)
    nearest = np.zeros(len(tokens), dtype=np.int64)
    for number, token in enumerate(tokens):
        cosines = unit[to] @ unit[token]
        nearest[number] = np.argmax(cosines)
        rivals = np.flatnonzero(cosines > cosines.max() - _ROUNDING)
        if len(rivals) > 1:
            certain[rivals] = False
    return nearest, certain
