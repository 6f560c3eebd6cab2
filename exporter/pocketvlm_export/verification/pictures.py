"""Knows the pictures of the parity gate: waves and noise, cut into tiles where the artifact's
layout cuts."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.layouts import Layout, TileGrid, TokenGrid, open_layout
from pocketvlm_export.families.spec import VisionSpec
from pocketvlm_export.verification.vision_reference import Floats

_PICTURES = 2
# height and width of a picture that is cut, in tiles: no grid fits it without padding
_CUT = (1.5, 1.2)
_SQUEEZED = 1.07  # its height, where its size follows from a grid
# Rows and columns of tokens that fill no window of any tower: the first that a picture may have.
_RAGGED = ((5, 7), (3, 5), (2, 3), (1, 2), (1, 1))


@dataclass(frozen=True)
class GateBatch:
    """One batch for the vision graph.

    Attributes:
        pixel_values: float32 (B, 3, height, width).
        grid: how its pictures were cut, or the only one whose tiles the batch is.
        size: (height, width) of such a picture in pixels.
        picture: how the picture was cut whose tiles these are, where they have several sizes: those
            of its further sizes are the batches that follow.
    """

    pixel_values: Floats
    grid: TileGrid
    size: tuple[int, int]
    picture: TileGrid | None = None

    @property
    def tokens(self) -> tuple[int, int] | None:
        """(rows, columns) of tokens where they follow from the picture."""
        tokens = self.grid.tokens
        return None if tokens is None else (tokens.rows, tokens.columns)


def gate_batches(artifact: Artifact, vision: VisionSpec) -> list[GateBatch]:
    """Return several pictures of one tile each, or the tiles of one picture, or the frames of one
    clip. With dynamic resolution they are pictures of two sizes, of which one may keep all its
    tokens, after one that is cut if any is. If several pictures of a prompt are arranged
    differently, these come last. What the gate's prompt is about is the first of the first
    batch."""
    layout, size = open_layout(artifact), artifact.manifest.vision.image_size
    if size is None:
        pruning = artifact.manifest.pruning
        in_tiles = _cut(layout)
        above = _above(max(pruning.budgets), pruning.tokens_before)
        return [
            *in_tiles,
            _dynamic(vision.factor, above, count=1 if in_tiles else _PICTURES),
            _dynamic(vision.factor, _ragged(pruning.tokens_before), count=1),
        ]
    grids, (height, width) = layout.grids(), size
    if [grid.tiles for grid in grids] == [1]:
        return [GateBatch(gate_pictures(_PICTURES, size), grids[0], size)]
    if layout.medium == "video":
        tiles = layout.cut(images_of(grids[0].tiles, size))
        return [GateBatch(tiles.pixel_values, grids[0], size)]
    cut = (round(_CUT[0] * height), round(_CUT[1] * width))
    tiles = layout.cut(images_of(1, cut)[0])
    alone = GateBatch(tiles.pixel_values, tiles.grid, cut)
    return [alone, *([] if layout.several is layout else [_several(layout.several, cut)])]


def cut_size(layout: Layout[Any]) -> tuple[int, int] | None:
    """Return (height, width) of a picture in as few tiles as any that is cut, where resolution is
    dynamic; None where none is."""
    grid = next((grid for grid in layout.grids() if grid.tiles > 1), None)
    if layout.config.image_size is not None or grid is None:
        return None
    height, width = layout.capped(max_tiles=grid.rows * grid.columns).largest_size()
    return round(_SQUEEZED * height), width


def _cut(layout: Layout[Any]) -> list[GateBatch]:
    """A picture that is cut where resolution is dynamic, its tiles of each size; none where no
    picture is."""
    if (size := cut_size(layout)) is None:
        return []
    tiles = layout.cut(images_of(1, size)[0])
    batches = list(zip(tiles.batches, tiles.grid.batches, strict=True))
    picture = tiles.grid if len(batches) > 1 else None
    first, *others = [GateBatch(pixels, grid, size) for pixels, grid in batches]
    return [replace(first, picture=picture), *others]


def _several(layout: Layout[Any], size: tuple[int, int]) -> GateBatch:
    pixels = [layout.cut(image).pixel_values for image in images_of(_PICTURES, size)]
    return GateBatch(np.concatenate(pixels), layout.grid(*size), size)


def _dynamic(edge: int, tokens: TokenGrid, count: int = _PICTURES) -> GateBatch:
    size = (tokens.rows * edge, tokens.columns * edge)
    return GateBatch(gate_pictures(count, size), TileGrid(tokens=tokens), size)


def _ragged(most: int) -> TokenGrid:
    """The first of `_RAGGED` with no more tokens than the largest picture has."""
    fitting = (TokenGrid(*size) for size in _RAGGED)
    return next(grid for grid in fitting if grid.tokens <= most)


def _above(budget: int, most: int) -> TokenGrid:
    """A grid of a few more tokens than are kept, not square and no whole windows, if a picture may
    have as many."""
    rows = max(2, math.isqrt(budget) - 1)
    while rows > 1 and rows * (budget // rows + 2) > most:
        rows -= 1
    columns = min(budget // rows + 2, most // rows)
    return TokenGrid(rows, columns)


def images_of(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Return `gate_pictures` as images in 8 bits, of (height, width) pixels."""
    return [_image(pixels) for pixels in gate_pictures(count, size)]


def _image(pixels: Floats) -> Image.Image:
    samples = (pixels * 48 + 128).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(samples.transpose(1, 2, 0)))


def gate_pictures(count: int, size: tuple[int, int]) -> Floats:
    """Return pictures with structure at several scales: float32 (count, 3, height, width), the same
    at every call."""
    height, width = size
    random = np.random.default_rng(20241202)
    y, x = np.mgrid[0:height, 0:width] / max(size)
    waves = random.normal(size=(count, 3, 6, 4))
    pictures = sum(
        waves[:, :, i, 0, None, None]
        * np.cos(2**i * (waves[:, :, i, 1, None, None] * x + waves[:, :, i, 2, None, None] * y + i))
        for i in range(6)
    )
    noise = 0.3 * random.normal(size=(count, 3, height, width))
    return (0.6 * pictures + noise).astype(np.float32)
