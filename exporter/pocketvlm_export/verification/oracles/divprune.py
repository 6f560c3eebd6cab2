"""DivPrune (arXiv 2503.02175): its greedy picks replayed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Doubles, Encoded, Ints, Ranking
from pocketvlm_export.verification.oracles.greedy import (
    ROUNDING,
    Picks,
    Step,
    cosines,
    scores_of,
)


@dataclass(frozen=True)
class Farthest(Picks):
    """The distances that picks were made by."""

    distances: Doubles = field(kw_only=True)

    def replay(self, order: Ints) -> Iterator[Step]:
        """The value of a patch is its distance from the nearest pick before; of the first, from its
        nearest neighbour."""
        far = self.distances + np.diag(np.full(len(self.distances), np.inf))
        nearest = far.min(axis=0)
        for number, pick in enumerate(order):
            yield Step(int(pick), nearest, ROUNDING / 2)
            row = self.distances[pick]
            nearest = row.copy() if number == 0 else np.minimum(nearest, row)
            nearest[order[: number + 1]] = -np.inf


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Pick all patches, one after the other: the one that is farthest from the nearest of those
    before."""
    distances = 1 - cosines(encoded.projected)
    tokens = len(distances)
    picked = [int(np.argmax(np.sort(distances + np.diag([np.inf] * tokens), axis=0)[0]))]
    while len(picked) < tokens:
        left = np.setdiff1d(np.arange(tokens), picked)
        picked.append(int(left[np.argmax(distances[np.ix_(left, np.array(picked))].min(axis=1))]))
    return Farthest(scores_of(np.array(picked)), distances=distances)
