"""SCoRe (CVPR 2026): its greedy picks replayed."""

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
class FarthestWeighed(Picks):
    """The distances and weights that picks were made by."""

    distances: Doubles = field(kw_only=True)
    weights: Doubles = field(kw_only=True)

    def replay(self, order: Ints) -> Iterator[Step]:
        """The value of a patch is its distance from the nearest pick before, times its weight; of
        the first, its weight."""
        values, nearest = self.weights, np.full(len(self.weights), np.inf)
        for number, pick in enumerate(order):
            slack = WEIGHT_ROUNDING * np.abs(values) + (ROUNDING * self.weights if number else 0)
            slack[order[:number]] = 0.0
            yield Step(int(pick), values, slack)
            nearest = np.minimum(nearest, self.distances[pick])
            values = nearest * self.weights
            values[order[: number + 1]] = -np.inf


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Pick all patches, one after the other: the one whose distance from the nearest of those
    before, times its weight, is largest."""
    distances = 1 - cosines(vectors_of(encoded, options))
    weights = weights_of(encoded, options)
    picked = [int(np.argmax(weights))]
    while len(picked) < len(distances):
        left = np.setdiff1d(np.arange(len(distances)), picked)
        values = distances[np.ix_(left, np.array(picked))].min(axis=1) * weights[left]
        picked.append(int(left[np.argmax(values)]))
    return FarthestWeighed(scores_of(np.array(picked)), distances=distances, weights=weights)
