"""SCOPE (arXiv 2510.24214): its greedy picks replayed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Doubles, Encoded, Ints, Ranking
from pocketvlm_export.verification.oracles.greedy import (
    ROUNDING,
    WEIGHT_ROUNDING,
    Picks,
    Step,
    cosines,
    scores_of,
)
from pocketvlm_export.verification.oracles.weights import vectors_of, weights_of


@dataclass(frozen=True)
class Covering(Picks):
    """The cosines and weights that picks were made by."""

    alike: Doubles = field(kw_only=True)
    weights: Doubles = field(kw_only=True)

    def replay(self, order: Ints) -> Iterator[Step]:
        """The value of a patch is what it adds to the cover, times its weight. Rounding is that of
        every cosine that adds to it."""
        covered = np.zeros(len(self.weights))
        for number, pick in enumerate(order):
            added = np.maximum(self.alike - covered[:, None], 0)  # column j is what j adds
            values = added.sum(axis=0) * self.weights
            slack = WEIGHT_ROUNDING * values
            slack += ROUNDING * self.weights * np.maximum((added > 0).sum(axis=0), 1)
            values[order[:number]], slack[order[:number]] = -np.inf, 0.0
            yield Step(int(pick), values, slack)
            covered = np.maximum(covered, self.alike[pick])


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Pick all patches, one after the other: the one for which sum_i max(0, C_ij - m_i), times its
    weight, is largest; m_i is the largest C_is of the picks s before, at least 0."""
    alike = cosines(vectors_of(encoded, options))
    weights = weights_of(encoded, options)
    left, picked = list(range(len(alike))), np.empty(len(alike), dtype=np.int64)
    covered = np.zeros(len(alike))
    for number in range(len(alike)):
        gains = [float(np.maximum(alike[:, j] - covered, 0.0).sum()) * weights[j] for j in left]
        picked[number] = left.pop(int(np.argmax(gains)))
        covered = np.maximum(covered, alike[:, picked[number]])
    return Covering(scores_of(picked), alike=alike, weights=weights)
