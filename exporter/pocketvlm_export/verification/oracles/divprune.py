"""DivPrune (arXiv 2503.02175): its greedy picks replayed, and what another order of picking would
have given away."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm_export.verification.oracles.base import Doubles, Encoded, Ints, Ranking

_ROUNDING = 1e-6  # of a cosine in float32: distances within it are equal


@dataclass(frozen=True)
class Picks(Ranking):
    """Picks, in the order of their scores 1 - pick / N, and the distances that they were made by.

    Whether a graph's picks are right is asked of each by itself, given those before it: two patches
    about equally far from all that is kept may be picked in either order, and all later picks may
    then be others.
    """

    distances: Doubles = field(kw_only=True)

    def gap(self, budget: int) -> float:
        """The smallest of the picks' own: how much nearer the best patch that was not picked lies,
        relatively."""
        smallest = 1.0
        for pick, nearest in self._replay(self._order()[:budget]):
            others = np.delete(nearest, pick)
            second = others.max() if others.size else -np.inf
            if np.isfinite(second):
                smallest = min(
                    smallest, (nearest[pick] - second) / nearest[pick] if nearest[pick] > 0 else 0.0
                )
        return float(smallest)

    def distance(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """The largest part, over all picks, by which a patch not yet picked lay farther from those
        before."""
        if not self.are_patches(kept):
            return float("inf")
        worst = 0.0
        for pick, nearest in self._replay(kept[np.argsort(-scores, kind="stable")]):
            if nearest[pick] == -np.inf:  # again
                return float("inf")
            farthest = float(nearest.max())
            lost = max(farthest - float(nearest[pick]) - _ROUNDING, 0.0)
            worst = max(worst, lost / farthest if lost else 0.0)
        return worst

    def score_difference(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """Of the scores alone: they are always the same, whichever patches bear them."""
        expected = 1 - np.arange(len(kept)) / len(self.scores)
        return float(np.abs(np.sort(scores)[::-1] - expected).max())

    def _replay(self, order: Ints) -> Any:
        """Each pick with the distance of every patch from its nearest pick before; -inf is what was
        picked."""
        far = self.distances + np.diag(np.full(len(self.distances), np.inf))
        nearest = far.min(axis=0)
        for number, pick in enumerate(order):
            yield pick, nearest
            nearest = (
                self.distances[pick].copy()
                if number == 0
                else np.minimum(nearest, self.distances[pick])
            )
            nearest[order[: number + 1]] = -np.inf


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Pick all patches, one after the other: the one that is farthest from the nearest of those
    before."""
    norms = np.linalg.norm(encoded.projected, axis=1, keepdims=True)
    unit = encoded.projected / np.maximum(norms, 1e-12)
    distances = 1 - unit @ unit.T
    tokens = len(distances)
    picked = [int(np.argmax(np.sort(distances + np.diag([np.inf] * tokens), axis=0)[0]))]
    while len(picked) < tokens:
        left = np.setdiff1d(np.arange(tokens), picked)
        picked.append(int(left[np.argmax(distances[np.ix_(left, np.array(picked))].min(axis=1))]))
    scores = np.empty(tokens)
    scores[picked] = 1 - np.arange(tokens) / tokens
    return Picks(scores, distances=distances)
