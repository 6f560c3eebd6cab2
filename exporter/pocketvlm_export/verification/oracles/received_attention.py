"""Received attention: the mean of a patch's column of the last map over heads and patches."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Doubles, Encoded, Ranking


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Neither what [CLS] pays nor what is paid to it counts."""
    total = encoded.attentions[-1].sum(axis=0, dtype=np.float64)[encoded.before :, encoded.before :]
    scores = total.sum(axis=0) / (len(encoded.attentions[-1]) * len(total))
    return Ranking(_means_of_squares(scores, encoded))


def _means_of_squares(scores: Doubles, encoded: Encoded) -> Doubles:
    """A token's score is the mean of those of its patches, added up one by one."""
    means = np.zeros(encoded.grid)
    width = encoded.grid[1] * encoded.merge
    for patch, score in enumerate(scores):
        means[patch // width // encoded.merge, patch % width // encoded.merge] += (
            score / encoded.merge**2
        )
    return means.ravel()
