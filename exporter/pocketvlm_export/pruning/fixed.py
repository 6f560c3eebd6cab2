"""Knows methods that look at no picture: the same patches of every one, known when the graph is
made."""

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import Evidence, Pruner, Selection, take_best


class FixedOrder(Pruner):
    """Keeps the first patches of a fixed order; the score of a patch is 1 - its place there / N."""

    def order(self, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
        """Return the numbers of all N patches of a grid of (rows, columns), those kept first in
        front."""
        raise NotImplementedError

    def settle(self, vision: VisionSpec) -> None:
        """Refuse a tower that reads pictures of any size: which patches there are is not known
        then; raises `RequestError`."""
        if vision.image_size is None:
            raise RequestError(
                f"{self.name} needs pictures of one size, and these may have any",
                advice="give --fixed-size HxW, or choose a method that looks at the picture",
                setting="pruner",
            )

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return constants, the same for every picture of the batch; where stages of the tower
        dropped patches, the first of the order that are left."""
        if evidence.places is not None:
            order = self.order(evidence.grid)
            scores = [1 - place / len(order) for place in np.argsort(order).tolist()]
            return take_best(torch.tensor(scores)[evidence.places], budget)
        kept = self.order(evidence.grid)[:budget]
        indices = torch.tensor(np.sort(kept).tolist())
        scores = torch.tensor([1 - place / evidence.tokens for place in np.argsort(kept).tolist()])
        return Selection(indices.expand(evidence.batch, -1), scores.expand(evidence.batch, -1))
