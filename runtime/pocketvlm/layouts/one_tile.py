"""Knows what layouts have in common whose pictures are one tile each, whatever their size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.layouts.base import Prepared
from pocketvlm.layouts.grids import TileGrid, Tiles


class OneTile(Prepared):
    """A picture is one tile, made by the steps of its image processor alone."""

    @property
    def recipe(self) -> str:
        """None is needed: the steps are all there is."""
        return ""

    def grids(self) -> Sequence[TileGrid]:
        """One tile."""
        return [TileGrid()]

    def grid(self, height: int, width: int) -> TileGrid:
        """The same for every picture."""
        return TileGrid()

    def views(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The picture as resized, cropped and padded."""
        return self.steps.resize_and_crop(image)[None]

    def cut(self, image: Image.Image) -> Tiles:
        """As `views`, normalised."""
        return Tiles(self.steps(image)[None], TileGrid())
