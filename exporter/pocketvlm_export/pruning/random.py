"""Random: patches drawn at random, once for all pictures, a baseline."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pocketvlm_export.pruning.fixed import FixedOrder
from pocketvlm_export.pruning.options import Choice, Option


class Random(FixedOrder):
    """The first of a permutation drawn with ``seed``; another seed is another draw."""

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random"
    keeps: ClassVar[str] = "drawn at random, the same for every picture"
    accepts: ClassVar[Mapping[str, Option | Choice]] = {"seed": Option(int, 0, 2**32 - 1, 0)}

    def order(self, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
        """See `FixedOrder.order`; numpy promises that this generator's draws never change."""
        order: npt.NDArray[np.int64] = np.random.RandomState(int(self.options["seed"])).permutation(
            grid[0] * grid[1]
        )
        return order
