"""Knows the outputs of the vision graph for pictures, and how a smaller budget is cut from a larger
one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import RequestError


@dataclass(frozen=True)
class VisionFeatures:
    """The vision graph's outputs for a batch of pictures or tiles; tokens are in raster order.

    Attributes:
        image_features: float32 (batch, k, hidden), ready for the decoder.
        kept_indices: int64 (batch, k), patch numbers in raster order of the whole picture.
        kept_scores: float32 (batch, k), the score by which each token was kept; higher is better.
        nested: whether the method allows `narrow`.
        extras: further features of each token by name, float32 (batch, k, hidden) each.
        complete: these are all tokens of the pictures, which have fewer than their graph keeps.
    """

    image_features: npt.NDArray[np.float32]
    kept_indices: npt.NDArray[np.int64]
    kept_scores: npt.NDArray[np.float32]
    nested: bool = True
    extras: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    complete: bool = False

    @property
    def budget(self) -> int:
        """k, the visual tokens of a picture."""
        return self.kept_indices.shape[1]

    def first(self, count: int) -> VisionFeatures:
        """The features of the first ``count`` pictures of the batch."""
        return replace(
            self,
            image_features=self.image_features[:count],
            kept_indices=self.kept_indices[:count],
            kept_scores=self.kept_scores[:count],
            extras={name: extra[:count] for name, extra in self.extras.items()},
        )

    def narrow(self, budget: int) -> VisionFeatures:
        """The same pictures at a smaller budget j: the j best scores, ties to the lower index, in
        raster order.

        Exact for nested methods: the set kept at j is a subset of the set kept at k >= j, and a
        kept token's feature does not depend on which others are kept. An int8 graph measures its
        activations over all the tokens that it keeps. There the kept set is equal, and the features
        equal those of a graph made for j within that precision. Pictures that are `complete` and
        have no more than j tokens stay as they are.

        Raises:
            PocketVLMError: ``budget`` lies outside 1..k, or the method is not nested.
        """
        if budget == self.budget or (self.complete and budget > self.budget):
            return self
        if not 1 <= budget <= self.budget:
            raise RequestError(
                f"budget {budget}",
                expected=f"1..{self.budget}, the tokens this graph keeps",
                setting="budget",
            )
        if not self.nested:
            raise RequestError(
                f"budget {budget} cannot be cut from {self.budget} tokens, as this pruning method "
                "is not nested",
                advice=f"use {self.budget} or export with --budget {budget}",
                setting="budget",
            )
        # Tokens are in raster order already, so a stable sort leaves the lower index first among
        # equal scores.
        best = np.argsort(-self.kept_scores, axis=1, kind="stable")[:, :budget]
        rows = np.sort(best, axis=1)  # (batch, j)
        return replace(
            self,
            image_features=_rows_of(self.image_features, rows),
            kept_indices=np.take_along_axis(self.kept_indices, rows, axis=1),
            kept_scores=np.take_along_axis(self.kept_scores, rows, axis=1),
            extras={name: _rows_of(extra, rows) for name, extra in self.extras.items()},
            complete=False,
        )


def _rows_of(
    features: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(batch, k, hidden) and (batch, j) -> (batch, j, hidden)."""
    return np.take_along_axis(features, rows[:, :, None], axis=1)
