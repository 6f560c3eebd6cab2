"""An even pattern: the same tokens of every picture are kept, a checkerboard where they are
half."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm_export.pruning.base import take_exactly
from pocketvlm_export.tower_stages.base import Criterion, Seen


class Even(Criterion):
    """Ordered dithering on a grid that is halved again and again: every second token as on a
    checkerboard, of those every second, and so on. What is kept is spread evenly whatever its
    number is, and what a later stage keeps is part of it."""

    name: ClassVar[str] = "even"
    keeps: ClassVar[str] = "of an even pattern, the same for every picture"

    def choose(self, seen: Seen, keep: int) -> torch.Tensor:
        """See `Criterion.choose`."""
        order = even_order(*seen.grid)
        if seen.places is None:
            return torch.tensor(np.sort(order[:keep]).tolist()).expand(seen.batch, -1)
        ranks = torch.tensor((-np.argsort(order)).tolist())  # of each token of the picture
        return take_exactly(ranks[seen.places], keep).indices


def even_order(rows: int, columns: int) -> npt.NDArray[np.int64]:
    """Return the numbers of all tokens of a grid, those that are kept first in front."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    key = np.zeros(rows * columns, dtype=np.int64)
    for _ in range(2 * int(max(rows, columns)).bit_length()):
        key = 2 * key + (row + column) % 2
        # The tokens of either colour lie on a grid that is turned by half a right angle.
        row, column = (row + column) // 2, (row - column) // 2
    order: npt.NDArray[np.int64] = np.argsort(key, kind="stable")
    return order
