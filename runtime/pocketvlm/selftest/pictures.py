"""Knows the pictures of a self-test: PNG files of tiles, which become the vision graph's input
without being resized."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.errors import ArtifactError, PictureError
from pocketvlm.layouts import Layout, TileGrid, Tiles, tokens_of_tile
from pocketvlm.limits import PictureLimits
from pocketvlm.media.pictures import open_picture
from pocketvlm.selftest.reading import MAX_BYTES

_LIMITS: Final = PictureLimits(max_bytes=MAX_BYTES, max_pixels=1 << 23)
_AGAIN = "export it again"


def read_tiles(artifact: Artifact, layout: Layout[Any], grid: TileGrid) -> Tiles:
    """The picture of an artifact's self-test as the vision graph reads it.

    Args:
        artifact: of the medium that the layout cuts.
        layout: of the artifact.
        grid: how the picture is cut.

    Raises:
        ArtifactError: a picture is missing, damaged, too large, or not of such tiles.
    """
    _check_grid(artifact, layout, grid)
    stated = artifact.manifest.self_test
    assert stated is not None  # whoever has the grid has read its file
    pixels = [
        _pixels(artifact, name, layout, batch)
        for name, batch in zip(stated.pictures, grid.batches, strict=True)
    ]
    return Tiles(pixels[0], grid, tuple(pixels[1:]))


def cutting_little(layout: Layout[Any]) -> Layout[Any]:
    """The layout cutting into as few tiles as it can, but two where it can; its grids may be others
    than the whole layout's."""
    least, most = layout.least_caps.get("max_tiles", 1), layout.caps.get("max_tiles", 0)
    return layout.capped(max_tiles=max(least, 2)) if most > max(least, 2) else layout


def stacked(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Tiles (n, height, width, 3) as one picture, one below the other."""
    return tiles.reshape(-1, *tiles.shape[2:])


def _pixels(
    artifact: Artifact, name: str, layout: Layout[Any], grid: TileGrid
) -> npt.NDArray[np.float32]:
    path = artifact.path(name)
    try:
        samples = np.asarray(open_picture(path, _LIMITS))
    except PictureError as error:
        raise ArtifactError(
            f"the picture of a self-test is damaged ({error.reason})", advice=_AGAIN
        ) from error
    height, width = samples.shape[0] // grid.tiles, samples.shape[1]
    if samples.shape[0] != height * grid.tiles or not _is_tile(layout, grid, height, width):
        raise ArtifactError(
            f"{path} has {width}x{samples.shape[0]} pixels, which are not {grid.tiles} tiles of "
            "its self-test",
            advice=_AGAIN,
        )
    return np.stack([layout.steps.normalised(tile) for tile in np.split(samples, grid.tiles)])


def _is_tile(layout: Layout[Any], grid: TileGrid, height: int, width: int) -> bool:
    """Whether a tile may have this size: the model's, or square tokens in as many rows and
    columns."""
    if layout.config.image_size is not None:
        return (height, width) == tuple(layout.config.image_size)
    if grid.tokens is None or tokens_of_tile(layout, grid) > layout.config.patches:
        return False
    rows, columns = grid.tokens.rows, grid.tokens.columns
    return height % rows == 0 and width % columns == 0 and height // rows == width // columns


def _check_grid(artifact: Artifact, layout: Layout[Any], grid: TileGrid) -> None:
    """Refuse a grid that the layout cuts no picture into."""
    if not _is_grid(layout, grid):
        raise ArtifactError(
            f"the self-test of {artifact.root} has a picture of {grid} tiles",
            expected=f"one that the layout {layout.name} makes",
            advice=_AGAIN,
        )


def _is_grid(layout: Layout[Any], grid: TileGrid) -> bool:
    grids = (*layout.grids(), *cutting_little(layout).grids())
    shapes = {(each.rows, each.columns, each.whole) for each in grids}
    if (grid.rows, grid.columns, grid.whole) not in shapes:
        return False
    if grid.size is not None:
        try:
            return grid in (each.grid(*grid.size) for each in (layout, cutting_little(layout)))
        except PictureError:
            return False
    kept = np.zeros((grid.tiles, 1), dtype=np.int64)
    try:
        layout.expand(grid, 1, kept if len(grid.batches) == 1 else None)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False  # it lacks what this layout reads of a grid
    return True
