"""Knows how picks that were made one after another are replayed, and what another order of picking
would have given away."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pocketvlm_export.verification.oracles.base import Doubles, Ints, Ranking

ROUNDING = 1e-6  # of a cosine in float32: what differs by less is equal
# Of an attention in float32, as a part of it: softmax multiplies what rounding does to logits.
WEIGHT_ROUNDING = 1e-5


class Step(NamedTuple):
    """What could be picked at one step.

    Attributes:
        pick: what was.
        values: of every patch, (N,); the largest is to be picked. -inf is what was picked before.
        slack: how far each value may be off by rounding, (N,) or one for all.
    """

    pick: int
    values: Doubles
    slack: Doubles | float


@dataclass(frozen=True)
class InOrder(Ranking):
    """Picks, in the order of their scores 1 - pick / N."""

    def score_difference(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """Of the scores alone: they are always the same, whichever patches bear them."""
        expected = 1 - np.arange(len(kept)) / len(self.scores)
        return float(np.abs(np.sort(scores)[::-1] - expected).max())


@dataclass(frozen=True)
class Picks(InOrder):
    """Picks of which each has a value, and the largest is to be picked.

    Each of a graph's picks is checked by itself, given those before it. Two patches that are worth
    about as much may be picked in either order, and all later picks may then differ.
    """

    @abstractmethod
    def replay(self, order: Ints) -> Iterator[Step]:
        """Yield a step for each patch of ``order``."""

    def gap(self, budget: int) -> float:
        """The smallest of the picks' own: by how much the best patch that was not picked is worth
        less, relatively; 0 where that is rounding."""
        smallest = 1.0
        for step in self.replay(self._order()[:budget]):
            slack = np.broadcast_to(step.slack, step.values.shape)
            others = step.values + slack
            others[step.pick] = -np.inf
            mine, second = step.values[step.pick], others.max()
            if np.isfinite(second):
                apart = mine - slack[step.pick] > second
                smallest = min(smallest, (mine - second) / mine if apart else 0.0)
        return float(smallest)

    def distance(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """The largest part, over all picks, by which a patch not yet picked was worth more."""
        if not self.are_patches(kept):
            return float("inf")
        worst = 0.0
        for step in self.replay(kept[np.argsort(-scores, kind="stable")]):
            mine = step.values[step.pick]
            if mine == -np.inf:  # again
                return float("inf")
            slack = np.broadcast_to(step.slack, step.values.shape)
            best = float(step.values.max())
            lost = float((step.values - slack).max() - mine - slack[step.pick])
            if lost > 0:
                worst = max(worst, lost / best)
        return worst


def scores_of(order: Ints) -> Doubles:
    """Return 1 - pick / N of each patch, by all patches in the order of picking."""
    scores = np.empty(len(order))
    scores[order] = 1 - np.arange(len(order)) / len(order)
    return scores


def cosines(vectors: Doubles) -> Doubles:
    """Return the cosine of each vector with each, 0 with a vector of zeros: (N, C) -> (N, N)."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(unit @ unit.T)
