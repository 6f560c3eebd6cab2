"""G-Prune (arXiv 2501.02268), one graph per picture: edges one by one, the matrix power written as
such."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Doubles, Encoded, Ranking

_NEAR = 1e-5  # cosines this near to the threshold may lie on its other side in float32


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """r_i / deg_i. Where edges are in doubt, a score may be off by what they change of it, each
    alone and together."""
    x = encoded.projected
    norms = np.sqrt((x**2).sum(axis=1))
    unit = x / np.maximum(norms, 1e-12)[:, None]
    cosines = unit @ unit.T
    joined = cosines >= options["threshold"]
    scores = _scores(cosines, joined, norms, options)
    doubtful = np.abs(cosines - options["threshold"]) < _NEAR
    slack: Doubles = np.abs(_scores(cosines, joined ^ doubtful, norms, options) - scores)
    for i, j in zip(*np.nonzero(np.triu(doubtful)), strict=True):
        otherwise = joined.copy()
        otherwise[i, j] = otherwise[j, i] = not joined[i, j]
        slack += np.abs(_scores(cosines, otherwise, norms, options) - scores)
    return Ranking(scores, slack)


def _scores(
    cosines: Doubles, joined: np.ndarray, norms: Doubles, options: Mapping[str, Any]
) -> Doubles:
    weights = np.where(joined, np.exp((cosines - 1) / options["temperature"]), 0.0)
    # A patch that is joined to none, not even to itself, is like all others to the softmax.
    weights[~joined.any(axis=1)] = 1.0
    walk = weights / weights.sum(axis=1, keepdims=True)
    reached: Doubles = norms @ np.linalg.matrix_power(walk, options["steps"])
    return reached / (walk > 0).sum(axis=1)
