"""Knows how one picture was cut: its tiles, the visual tokens of each, and their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenGrid:
    """Rows and columns of the visual tokens that the tower makes of a picture or tile, before
    pruning."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.columns


@dataclass(frozen=True)
class TileGrid:
    """How a picture was cut into tiles; this is kept when its pixels no longer are.

    Attributes:
        rows, columns: of the tiles that are parts of the picture, in raster order in the batch.
        whole: where in the batch a further tile holds the whole picture, smaller; None where none
            does.
        size: (height, width) of the picture in pixels, for layouts whose slots depend on it; else
            None.
        tokens: of each tile, where resolution is dynamic and they follow from the picture; None
            where they are the same of every picture.
        whole_tokens: of the tile with the whole picture, where its size is another than that of the
            parts; see `batches`.
    """

    rows: int = 1
    columns: int = 1
    whole: Literal["first", "last"] | None = None
    size: tuple[int, int] | None = None
    tokens: TokenGrid | None = None
    whole_tokens: TokenGrid | None = None

    @property
    def tiles(self) -> int:
        """Tiles of one picture, which are the batch of the vision graph where all have one size."""
        return self.rows * self.columns + (self.whole is not None)

    @property
    def batches(self) -> tuple[TileGrid, ...]:
        """The tiles of each size, in the order of the prompt: the vision graph runs once for each.
        This grid alone where all tiles have one size."""
        if self.whole_tokens is None:
            return (self,)
        parts = replace(self, whole=None, whole_tokens=None)
        whole = TileGrid(tokens=self.whole_tokens)
        return (whole, parts) if self.whole == "first" else (parts, whole)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Tiles:
    """A picture as the vision graph reads it: float32 (tiles, 3, height, width), and how it was
    cut. ``further`` are those of the grid's further `TileGrid.batches`."""

    pixel_values: Floats
    grid: TileGrid
    further: tuple[Floats, ...] = ()

    @property
    def batches(self) -> tuple[Floats, ...]:
        """The pixels of each of the grid's batches."""
        return (self.pixel_values, *self.further)


def grid_of(height: int, width: int, patches: int) -> TokenGrid:
    """Rows and columns of square patches that cover height x width pixels; a single row where they
    are not such a grid."""
    rows = round(math.sqrt(patches * height / width))
    if rows < 1 or patches % rows or rows * width != (patches // rows) * height:
        return TokenGrid(1, patches)
    return TokenGrid(rows, patches // rows)
