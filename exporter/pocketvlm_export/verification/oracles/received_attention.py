"""Received attention: the mean of a patch's column of the last map over heads and patches."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Doubles, Ranking, Seen


def rank(seen: Seen, options: Mapping[str, Any]) -> Ranking:
    """Neither what [CLS] pays nor what is paid to it counts."""
    total = seen.attentions[-1].sum(axis=0, dtype=np.float64)[seen.before :, seen.before :]
    scores = total.sum(axis=0) / (len(seen.attentions[-1]) * len(total))
    return Ranking(_means_of_squares(scores, seen))


def _means_of_squares(scores: Doubles, seen: Seen) -> Doubles:
    """A token's score is the mean of those of its patches, added up one by one."""
    means = np.zeros(seen.grid)
    width = seen.grid[1] * seen.merge
    for patch, score in enumerate(scores):
        means[patch // width // seen.merge, patch % width // seen.merge] += score / seen.merge**2
    return means.ravel()
