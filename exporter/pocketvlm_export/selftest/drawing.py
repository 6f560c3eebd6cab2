"""Knows the picture of a self-test: blocks of colours, in as few tiles as show how it is cut."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.layouts import Layout, Tiles, TokenGrid
from pocketvlm.selftest.pictures import cutting_little, stacked

_LEVELS = 16  # of a colour: few enough for a small file
_FEW = 64  # tokens of a picture of any size that keeps all of them
_MORE = 3  # columns of tokens beyond what is kept


@dataclass(frozen=True)
class Drawn:
    """A picture as the vision graph reads it, and the PNG file of each of its batches."""

    tiles: Tiles
    files: tuple[bytes, ...]


def draw(layout: Layout[Any], budget: int, seed: int) -> Drawn:
    """Return the picture of a layout, another for each ``seed``; of pictures of any size one that
    has more tokens than the largest ``budget``, where there is one."""
    layout = cutting_little(layout)
    height, width = _size(layout, budget)
    count = layout.grids()[0].tiles if layout.medium == "video" else 1
    edge = max(2, _token_edge(layout) // 2)
    images = [
        Image.fromarray(_blocks(height, width, edge, seed * count + number))
        for number in range(count)
    ]
    medium: Any = images if layout.medium == "video" else images[0]
    tiles, views, at = layout.cut(medium), list(layout.views(medium)), 0
    files = []
    for batch in tiles.grid.batches:
        files.append(_png(stacked(np.stack(views[at : at + batch.tiles]))))
        at += batch.tiles
    return Drawn(tiles, tuple(files))


def _size(layout: Layout[Any], budget: int) -> tuple[int, int]:
    """(height, width) of the picture in pixels."""
    cut = [grid for grid in layout.grids() if grid.tiles > 1]
    if layout.config.image_size is not None:
        height, width = layout.config.tile_size
        return (height, 2 * width) if cut and layout.medium == "image" else (height, width)
    if cut:
        return layout.largest_size()
    grid, edge = _tokens(budget, layout.config.patches), _token_edge(layout)
    return grid.rows * edge, grid.columns * edge


def _tokens(budget: int, most: int) -> TokenGrid:
    """A grid of a few more tokens than the budget; of a few where that keeps all."""
    kept = budget if budget < most else min(_FEW, most)
    rows = max(1, math.isqrt(kept))
    while rows > 1 and rows * (kept // rows + _MORE) > most:
        rows -= 1
    return TokenGrid(rows, min(kept // rows + _MORE, most // rows))


def _token_edge(layout: Layout[Any]) -> int:
    """Pixels of the edge of a token."""
    if layout.config.image_size is None:
        return layout.largest_size()[0] // layout.token_grid(layout.grids()[-1]).rows
    return max(1, layout.config.tile_size[0] // layout.token_grid(layout.grids()[0]).rows)


def _blocks(height: int, width: int, edge: int, seed: int) -> npt.NDArray[np.uint8]:
    """uint8 (height, width, 3) of squares of one colour each."""
    rows, columns = -(-height // edge), -(-width // edge)
    levels = np.random.default_rng(seed).integers(0, _LEVELS, (rows, columns, 3))
    colours = (levels * (255 // (_LEVELS - 1))).astype(np.uint8)
    pixels: npt.NDArray[np.uint8] = colours.repeat(edge, axis=0).repeat(edge, axis=1)
    return np.ascontiguousarray(pixels[:height, :width])


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
