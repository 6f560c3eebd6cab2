"""Knows the pictures of the parity gate: waves and noise, cut into tiles where the artifact's
layout cuts."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.layouts import TileGrid, open_layout
from pocketvlm_export.verification.reference import Floats

_PICTURES = 2
_CUT = (
    1.5,
    1.2,
)  # height and width of a picture that is cut, in tiles: no grid fits it without padding


@dataclass(frozen=True)
class GateBatch:
    """One batch for the vision graph.

    Attributes:
        pixel_values: float32 (B, 3, height, width).
        grid: how the picture was cut that the gate's prompt is about; its tiles are the first of
            the batch.
        size: (height, width) of that picture in pixels.
    """

    pixel_values: Floats
    grid: TileGrid
    size: tuple[int, int]


def gate_batch(artifact: Artifact) -> GateBatch:
    """Return several pictures of one tile each, or the tiles of one picture, or the frames of one
    clip."""
    layout = open_layout(artifact)
    height, width = layout.config.tile_size
    if [grid.tiles for grid in layout.grids()] == [1]:
        return GateBatch(gate_pictures(_PICTURES, (height, width)), TileGrid(), (height, width))
    if layout.medium == "video":
        frames = [
            _image(frame) for frame in gate_pictures(layout.grids()[0].tiles, (height, width))
        ]
        return GateBatch(layout.cut(frames).pixel_values, layout.grids()[0], (height, width))
    size = (round(_CUT[0] * height), round(_CUT[1] * width))
    tiles = layout.cut(_image(gate_pictures(1, size)[0]))
    return GateBatch(tiles.pixel_values, tiles.grid, size)


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
