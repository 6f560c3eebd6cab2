"""LLaVA-NeXT's tiles put together as transformers does: padding left out, a newline after each
row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.layouts.anyres import AnyRes
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles

_NEWLINE = "image_newline"
_RECIPE = """\
Its rows follow one after the
other, each from left to right, and after each row the vector `image_newline`. Left out are what
lies in padding and the newlines of rows that are padding. Let the map have m x n places: where W /
H > n / m, the first and the last floor((m - floor(round(H n / W, 7 digits))) / 2) rows are padding;
else the first and the last floor((n - floor(round(W m / H, 7 digits))) / 2) columns."""


class AnyResUnpadded(AnyRes):
    """The same tiles put together as transformers' ``LlavaNextModel.pack_image_features`` does.

    Of the map that the parts make up, rows or columns of nothing but padding are left out,
    and the learnt vector ``image_newline`` follows each row that is left. With every token kept the
    result is that of transformers. With fewer it is what pruning leaves of that sequence: kept
    tokens in their order, those that lie in padding dropped with it, every newline kept. How many
    slots a picture takes therefore depends on which tokens are kept.
    """

    name: ClassVar[str] = "anyres-hf"
    constants: ClassVar[tuple[str, ...]] = (_NEWLINE,)
    recipe_of_rows: ClassVar[str] = _RECIPE

    def grid(self, height: int, width: int) -> TileGrid:
        """As `AnyRes.grid`, with the size that padding is found by."""
        return dataclasses.replace(super().grid(height, width), size=(height, width))

    def cut(self, image: Image.Image) -> Tiles:
        """See `AnyRes.cut`."""
        return Tiles(super().cut(image).pixel_values, self.grid(image.height, image.width))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token outside of padding, and for each newline."""
        rows, columns = self.unpadded(grid)
        if kept is None:
            inside = min(budget * grid.rows * grid.columns, len(rows) * len(columns))
        else:
            inside = int(self._inside(grid, kept).sum())
        return np.full(budget + inside + len(rows), self.config.image_token_id, dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The whole picture's, then row by row the parts' and a newline."""
        rows, columns = self.places(grid, kept_indices)
        inside = self._inside(grid, kept_indices)
        ends = np.asarray(self.unpadded(grid)[0])
        width = self.side * grid.columns + 1  # of a row with its newline
        order = np.argsort(
            np.concatenate([(rows * width + columns)[inside], ends * width + width - 1]),
            kind="stable",
        )
        hidden = image_features.shape[-1]
        parts = image_features[1:].reshape(-1, hidden)[inside]
        newlines = np.broadcast_to(constants[_NEWLINE], (len(ends), hidden))
        return np.concatenate([image_features[0], np.concatenate([parts, newlines])[order]])

    def unpadded(self, grid: TileGrid) -> tuple[range, range]:
        """Rows and columns of the parts' map that are not padding, all of them where its size is
        not known."""
        height, width = self.side * grid.rows, self.side * grid.columns
        if grid.size is None:
            return range(height), range(width)
        tall, wide = grid.size
        # Rounded and cut in this order, as transformers does: other orders differ by a row for some
        # sizes.
        if wide / tall > width / height:
            padding = (height - int(round(tall * (width / wide), 7))) // 2
            return range(padding, height - padding), range(width)
        padding = (width - int(round(wide * (height / tall), 7))) // 2
        return range(height), range(padding, width - padding)

    def _inside(self, grid: TileGrid, kept: Ints) -> npt.NDArray[np.bool_]:
        rows, columns = self.places(grid, kept)
        tall, wide = self.unpadded(grid)
        return (
            (rows >= tall.start)
            & (rows < tall.stop)
            & (columns >= wide.start)
            & (columns < wide.stop)
        )
