"""VisionZip (arXiv 2412.04467): dominant patches, then every so-many-th of the others with those
that are like it added to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm_export.verification.oracles.base import (
    Doubles,
    Encoded,
    Ints,
    Mixture,
    Ranking,
    means_of_squares,
)
from pocketvlm_export.verification.oracles.merging import assign


@dataclass(frozen=True)
class Zipped(Ranking):
    """Attention paid to each patch, and the keys that say which are alike.

    Attributes:
        keys: (N, d), means over heads.
        share: of contextual tokens.
    """

    keys: Doubles = field(kw_only=True)
    share: float = field(kw_only=True)

    def kept(self, budget: int) -> Ints:
        """Dominant and contextual patches, in raster order."""
        dominant = self._order()[: budget - self._contextual(budget)]
        return np.union1d(dominant, self._targets(dominant, budget))

    def gap(self, budget: int) -> float:
        """Of the last dominant patch: the others follow from these."""
        return super().gap(min(budget - self._contextual(budget), len(self.scores)))

    def distance(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """That of the dominant ones, the best by ``scores``; infinite where the others are not
        those that these leave as targets."""
        if not self.are_patches(kept):
            return float("inf")
        dominant = self._dominant(kept, scores)
        if not np.array_equal(
            np.setdiff1d(kept, dominant), self._targets(dominant, len(kept))
        ) and len(kept) < len(self.scores):
            return float("inf")
        return Ranking(self.scores, self.slack).distance(np.sort(dominant), scores)

    def mixture(self, kept: Ints, scores: npt.NDArray[np.floating[Any]]) -> Mixture:
        """Dominant ones as they are, contextual ones with the mean of those nearest to them."""
        weights = np.eye(len(self.scores))[kept]
        certain = np.ones(len(kept), dtype=bool)
        targets = np.setdiff1d(kept, self._dominant(kept, scores))
        merged = np.setdiff1d(np.arange(len(self.scores)), kept)
        if not len(targets):
            return Mixture(weights, certain)
        nearest, of_targets = assign(self.keys, merged, targets)
        for number, target in enumerate(targets):
            place = int(np.searchsorted(kept, target))
            certain[place] = of_targets[number]
            members = merged[nearest == number]
            if len(members):
                weights[place, members] = 1 / len(members)
        return Mixture(weights, certain)

    def _contextual(self, budget: int) -> int:
        if self.share == 0 or budget == 1:
            return 0
        return int(np.clip(np.rint(self.share * budget), 1, budget - 1))

    def _dominant(self, kept: Ints, scores: npt.NDArray[np.floating[Any]]) -> Ints:
        best = np.argsort(-scores, kind="stable")
        return kept[best[: len(kept) - self._contextual(len(kept))]]

    def _targets(self, dominant: Ints, budget: int) -> Ints:
        left = np.setdiff1d(np.arange(len(self.scores)), dominant)
        count = self._contextual(budget)
        if not count:
            return left[:0]
        return left[:: max(1, len(left) // count)][:count]


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Rank by [CLS]'s row of the last map, or by the columns of the patches."""
    last, before = encoded.attentions[-1], encoded.before
    if options["weight"] == "cls":
        paid = last[:, 0, before:].mean(axis=0, dtype=np.float64)
    else:
        paid = last[:, before:, before:].mean(axis=(0, 1), dtype=np.float64)
    assert encoded.keys is not None
    keys = encoded.keys[:, before:].mean(axis=0, dtype=np.float64)
    of_tokens = [means_of_squares(column, encoded) for column in keys.T]
    return Zipped(
        means_of_squares(paid, encoded),
        keys=np.stack(of_tokens, axis=1),
        share=float(options["contextual"]),
    )
