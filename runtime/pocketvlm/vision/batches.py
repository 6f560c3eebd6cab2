"""Knows how a picture is encoded whose tiles may have several sizes. The vision graph runs once for
each size, and its outputs are joined in the order of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.layouts import Layout, TileGrid, Tiles, tokens_of_tile, tokens_of_tiles
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.features import VisionFeatures

Floats = npt.NDArray[np.float32]


def encode_tiles(
    encoder: VisionEncoder,
    layout: Layout[Any],
    tiles: Tiles,
    question: npt.NDArray[np.int64] | None = None,
) -> tuple[VisionFeatures, ...]:
    """The features of each of a picture's `TileGrid.batches`; most pictures have one. Errors and
    ``question`` as of `VisionEncoder.encode` and `VisionEncoder.select`."""
    return tuple(
        encoder.select(encoder.encode(pixels, tokens_of_tile(layout, batch)), question)
        for batch, pixels in zip(tiles.grid.batches, tiles.batches, strict=True)
    )


def arrange_features(
    layout: Layout[Any],
    grid: TileGrid,
    features: Sequence[VisionFeatures],
    constants: Mapping[str, Floats],
) -> tuple[Floats, dict[str, Floats]]:
    """What fills a picture's slots, float32 (slots, hidden), and its further features by name.

    Args:
        layout: of the picture.
        grid: how it was cut.
        features: of each of the grid's batches.
        constants: see `Layout.arrange`; what comes between features has no further ones.
    """

    def joined(each: Sequence[Floats], between: Mapping[str, Floats]) -> Floats:
        parts = [
            layout.arrange(batch, rows, seen.kept_indices, between)
            for batch, rows, seen in zip(grid.batches, each, features, strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    nothing = {name: np.zeros_like(value) for name, value in constants.items()}
    extras = {
        name: joined([seen.extras[name] for seen in features], nothing)
        for name in features[0].extras
    }
    return joined([seen.image_features for seen in features], constants), extras


def kept_patches(
    layout: Layout[Any], grid: TileGrid, features: Sequence[VisionFeatures]
) -> list[int]:
    """The patches kept of each tile, in raster order, numbered on from tile to tile."""
    kept = [row for seen in features for row in seen.kept_indices]  # (k,) of each tile
    tokens = tokens_of_tiles(layout, grid)
    first = np.cumsum([0, *tokens[:-1]], dtype=np.int64)
    numbers: list[int] = np.concatenate(
        [row + start for row, start in zip(kept, first, strict=True)]
    ).tolist()
    return numbers
