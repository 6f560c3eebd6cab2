"""Knows where the tiles and patches of a picture lie in it, in its own pixels, whatever its layout
does to it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.layouts import Layout, TokenGrid, tokens_of_tiles
from pocketvlm.vision.picture_input import PictureInput

Rectangle = tuple[float, float, float, float]  # left, top, width, height
_MOST_PIXELS = 25_000_000  # of a picture whose places are looked for
_LEVELS = 256
_MARK = 255  # in the third channel: a pixel that is the picture's, not padding


@dataclass(frozen=True)
class KeptTile:
    """What was kept of one tile.

    Attributes:
        grid: rows and columns of its patches.
        whole: whether it shows all of a picture that others show parts of.
        kept: numbers of its patches, in raster order.
        patches: where these lie in the picture, the best first: a smaller budget keeps the first of
            them; None where they are not a grid over it.
    """

    grid: TokenGrid
    whole: bool
    kept: list[int]
    patches: list[Rectangle] | None


def kept_tiles(
    picture: PictureInput, kept: Sequence[int], size: tuple[int, int] | None
) -> list[KeptTile]:
    """What an answer kept of each tile of a picture, in the order of the prompt.

    Args:
        picture: of the prompt.
        kept: `Answer.kept_indices` of it.
        size: (width, height) of the picture, upright; None where it is not known.
    """
    layout, grid = picture.layout, picture.grid
    shapes = [layout.token_grid(batch) for batch in grid.batches for _ in range(batch.tiles)]
    counts = tokens_of_tiles(layout, grid)
    places: Sequence[Rectangle | None] = [None] * len(shapes)
    if size is not None and layout.medium == "image" and size[0] * size[1] <= _MOST_PIXELS:
        places = tile_places(layout, *size)
    wholes = {"first": 0, "last": len(shapes) - 1}
    whole = None if grid.whole is None else wholes[grid.whole]
    tiles, first = [], 0
    for number, (shape, tokens) in enumerate(zip(shapes, counts, strict=True)):
        own = [index - first for index in kept if first <= index < first + tokens]
        place, best = places[number], _best_first(picture, number, own)
        patches = None if place is None else patch_places(place, shape, best)
        tiles.append(KeptTile(shape, number == whole, own, patches))
        first += tokens
    return tiles


def _best_first(picture: PictureInput, tile: int, kept: Sequence[int]) -> list[int]:
    """Kept patches by falling score, ties to the lower one; in raster order where the scores are
    gone."""
    if picture.features is None:
        return list(kept)
    rows = [row for features in picture.features for row in features.kept_scores]
    scores = np.asarray(rows[tile], dtype=np.float64)
    if len(scores) != len(kept):
        return list(kept)
    return [kept[place] for place in np.argsort(-scores, kind="stable")]


def patch_places(place: Rectangle, shape: TokenGrid, patches: Sequence[int]) -> list[Rectangle]:
    """Where patches of a tile lie, given where the tile does."""
    left, top, width, height = place
    wide, tall = width / shape.columns, height / shape.rows
    return [
        (
            round(left + index % shape.columns * wide, 1),
            round(top + index // shape.columns * tall, 1),
            round(wide, 1),
            round(tall, 1),
        )
        for index in patches
    ]


def tile_places(layout: Layout[Any], width: int, height: int) -> tuple[Rectangle | None, ...]:
    """Where each tile of a picture of so many pixels lies in it; beyond it where tiles are padded.

    The layout cuts a picture whose colours say where each pixel came from, so that no layout needs
    to say it in another way too. Pixels have 8 bits: places are right to about a 500th of the
    picture. None for a tile whose patches are not a grid of squares. The latest sizes are kept.
    """
    key: Any = layout
    return _tile_places(key, width, height)


@functools.lru_cache(maxsize=64)
def _tile_places(layout: Any, width: int, height: int) -> tuple[Rectangle | None, ...]:
    source = np.empty((height, width, 3), np.uint8)
    source[:, :, 0] = _ramp(width)[None]
    source[:, :, 1] = _ramp(height)[:, None]
    source[:, :, 2] = _MARK
    grid = layout.grid(height, width)
    shapes = [layout.token_grid(batch) for batch in grid.batches for _ in range(batch.tiles)]
    views = layout.views(Image.fromarray(source))
    return tuple(
        _place(np.asarray(view), shape, width, height)
        for view, shape in zip(views, shapes, strict=True)
    )


def _ramp(pixels: int) -> npt.NDArray[np.uint8]:
    """The level of each pixel along a side."""
    return ((np.arange(pixels) + 0.5) * (_LEVELS / pixels)).astype(np.uint8)


def _place(
    view: npt.NDArray[np.uint8], shape: TokenGrid, width: int, height: int
) -> Rectangle | None:
    tall, wide = view.shape[:2]
    if shape.rows * wide != shape.columns * tall:
        return None
    own = view[:, :, 2] == _MARK
    across = _line(view[:, :, 0], own, width)
    down = _line(view[:, :, 1].T, own.T, height)
    if across is None or down is None:
        return None
    return across[0], down[0], across[1], down[1]


def _line(
    levels: npt.NDArray[np.uint8], own: npt.NDArray[np.bool_], pixels: int
) -> tuple[float, float] | None:
    """Where the columns of a view begin along a side of so many ``pixels`` of the picture, and how
    far they reach: the straight line through what each of them shows."""
    counts = own.sum(axis=0)
    columns = np.flatnonzero(counts)
    if len(columns) < 2:
        return None
    sums = np.where(own, levels, 0).sum(axis=0, dtype=np.float64)
    places = (sums[columns] / counts[columns] + 0.5) * (pixels / _LEVELS)
    slope, start = np.polyfit(columns + 0.5, places, 1)
    return float(start), float(slope * levels.shape[1])
