"""LLaVA-NeXT's tiles: the whole picture squeezed into one, and the picture cut into the grid that
wastes least.

Kept tokens are joined as in FasterVLM's code (Zhang et al. 2024, arXiv 2412.01818, on LLaVA-NeXT).
Those of the whole picture come first, in raster order; then those of the grid, in raster order of
the map that its tiles make up together. No token marks the end of a row, and those that fall into
padding compete like any other. `AnyResUnpadded` describes how that differs from transformers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.base import LayoutConfig, Medium, Prepared, check_cap, suffixed
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles
from pocketvlm.media.preprocessing import Preprocessor

_RECIPE = """\
A picture of W x H pixels is cut into tiles, and each tile goes through the steps below (sizes are
height x width):

1. Of {sizes} take the size h x w that shows most of it: with
   s = min(w / W, h / H) it shows min(floor(W s) floor(H s), W H) pixels; of equals the smallest,
   then the first.
2. Resize the picture by the same filter to fit into that size, the aspect ratio kept, the edge that
   does not fill its side rounded up; put it in the middle of black (an odd pixel is left over at
   the right or bottom) and cut that into parts of {tile}, row by row.
3. The first tile is the whole picture resized to {base}, whatever its aspect ratio; the parts
   follow.

The tiles of one picture are one batch of the vision graph; those of two pictures are two. Of what
comes back, the rows of the first tile come first. Index p in `kept_indices` of the part in row r
and column c of parts has its place in row {side} r + floor(p / {side}) and column {side} c + p mod
{side} of a map of all parts. {rows}"""
_MOST_TILES = 100  # published models have up to 36 and the whole picture


class AnyRes(Prepared):
    """See `pocketvlm.layouts.base.Layout`; its option ``pinpoints`` lists sizes (height, width) in
    pixels."""

    name: ClassVar[str] = "anyres-fastervlm"
    medium: ClassVar[Medium] = "image"
    processors: ClassVar[tuple[str, ...]] = suffixed("LlavaNextImageProcessor")
    recipe_of_rows: ClassVar[str] = "Its rows follow one after the other, each from left to right."

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        self.pinpoints = _pinpoints(config)
        self.side = math.isqrt(config.patches)  # patches along an edge of a tile

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        if processor_config.get("do_resize") is False:
            raise ArtifactError("the image processor has do_resize false, which is not supported")
        preprocessor = Preprocessor.from_config(processor_config, cls.processors)
        preprocessor.check_size(config.tile_size)
        layout = cls(config, preprocessor)
        check_pinpoints(layout.pinpoints, processor_config)
        return layout

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        sizes = ", ".join(f"{height} x {width}" for height, width in self.pinpoints)
        (tall, wide), base = self.config.tile_size, self.steps.base_size
        lengths = {
            "sizes": sizes,
            "base": f"{base[0]} x {base[1]}",
            "tile": f"{tall} x {wide}",
            "side": self.side,
        }
        return _RECIPE.format(**lengths, rows=self.recipe_of_rows)

    @property
    def figures(self) -> Mapping[str, Any]:
        """See `Layout.figures`: (height, width) that the whole picture is squeezed into, and the
        patches along an edge of a tile."""
        return {"base": list(self.steps.base_size), "side": self.side}

    @property
    def caps(self) -> Mapping[str, int]:
        """See `Layout.caps`."""
        return {"max_tiles": max(grid.rows * grid.columns for grid in self.grids())}

    @property
    def least_caps(self) -> Mapping[str, int]:
        """See `Layout.least_caps`."""
        return {"max_tiles": min(grid.rows * grid.columns for grid in self.grids())}

    def grids(self) -> Sequence[TileGrid]:
        """One for each pinpoint."""
        height, width = self.config.tile_size
        grids = {
            TileGrid(rows // height, columns // width, "first") for rows, columns in self.pinpoints
        }
        return sorted(grids, key=lambda grid: (grid.tiles, grid.rows))

    def grid(self, height: int, width: int) -> TileGrid:
        """The grid of the pinpoint that keeps most of the picture's pixels, and of equals the one
        with least padding."""
        rows, columns = self._target(height, width)
        height_of_tile, width_of_tile = self.config.tile_size
        return TileGrid(rows // height_of_tile, columns // width_of_tile, "first")

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """Pinpoints of at most ``max_tiles`` tiles; see `Layout.capped`."""
        super().capped(max_pixels=max_pixels)
        if max_tiles is None:
            return self
        tiles = [grid.rows * grid.columns for grid in self.grids()]
        check_cap(max_tiles, max(tiles), "max_tiles", least=min(tiles))
        height, width = self.config.tile_size
        pinpoints = [
            list(size)
            for size in self.pinpoints
            if (size[0] // height) * (size[1] // width) <= max_tiles
        ]
        options = {**self.config.options, "pinpoints": pinpoints}
        return type(self)(dataclasses.replace(self.config, options=options), self._preprocessor)

    def views(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The whole picture in one tile, then its parts, row by row."""
        return np.stack([self.steps.resize_and_crop(tile) for tile in self._tiles(image)])

    def cut(self, image: Image.Image) -> Tiles:
        """As `views`, normalised."""
        pixels = np.stack([self.steps(tile) for tile in self._tiles(image)])
        return Tiles(pixels, self.grid(image.height, image.width))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token."""
        return np.full(budget * grid.tiles, self.config.image_token_id, dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The whole picture's, then the parts' in raster order of their common map."""
        rows, columns = self.places(grid, kept_indices)
        order = np.argsort(rows * self.side * grid.columns + columns, kind="stable")
        width = image_features.shape[-1]
        return np.concatenate([image_features[0], image_features[1:].reshape(-1, width)[order]])

    def places(self, grid: TileGrid, kept: Ints) -> tuple[Ints, Ints]:
        """(rows, columns) in the map of all parts of the tokens kept of them: (tiles, k) -> (parts
        * k,) each."""
        part = np.arange(grid.rows * grid.columns)[:, None]
        rows = part // grid.columns * self.side + kept[1:] // self.side
        columns = part % grid.columns * self.side + kept[1:] % self.side
        return rows.ravel(), columns.ravel()

    def _tiles(self, image: Image.Image) -> list[Image.Image]:
        steps, (height, width) = self.steps, self._target(image.height, image.width)
        whole = image.resize(steps.base_size[::-1], steps.resample)
        canvas = Image.new("RGB", (width, height))  # black around what the picture does not fill
        fitted = image.resize(_fit(image.size, (width, height)), steps.resample)
        canvas.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
        tall, wide = self.config.tile_size
        corners = [(x, y) for y in range(0, height, tall) for x in range(0, width, wide)]
        return [whole, *(canvas.crop((x, y, x + wide, y + tall)) for x, y in corners)]

    def _target(self, height: int, width: int) -> tuple[int, int]:
        def badness(pinpoint: tuple[int, int]) -> tuple[int, int]:
            scale = min(pinpoint[1] / width, pinpoint[0] / height)
            used = min(int(width * scale) * int(height * scale), width * height)
            return -used, pinpoint[0] * pinpoint[1] - used

        return min(self.pinpoints, key=badness)


def check_pinpoints(
    pinpoints: Sequence[tuple[int, int]], processor_config: Mapping[str, Any]
) -> None:
    """Raise `ArtifactError` where an image processor cuts pictures by other sizes."""
    stated = processor_config.get("image_grid_pinpoints")
    # An export may leave some out, but not have others.
    kept = [list(size) for size in pinpoints]
    listed = stated if isinstance(stated, list) else []
    if stated is not None and kept != [size for size in listed if size in kept]:
        raise ArtifactError(
            f"the image processor cuts pictures into {stated}, the model puts {pinpoints} "
            "together: the two configurations are of two models",
            advice="export the artifact again",
        )


def _pinpoints(config: LayoutConfig) -> tuple[tuple[int, int], ...]:
    """The option, checked, as the manifest is untrusted."""
    height, width = config.tile_size
    stated = config.options.get("pinpoints")
    sound = (
        isinstance(stated, list)
        and bool(stated)
        and all(_is_size(size, height, width) for size in stated)
    )
    if not sound or math.isqrt(config.patches) ** 2 != config.patches:
        raise ArtifactError(
            f"pictures cannot be cut into {stated!r}",
            expected=f"sizes [height, width] of whole tiles of {height}x{width} pixels, "
            f"{_MOST_TILES} at most, and a square number of patches in each",
        )
    return tuple((size[0], size[1]) for size in stated or ())


def _is_size(size: Any, height: int, width: int) -> bool:
    if not (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(type(edge) is int for edge in size)
    ):
        return False
    whole = size[0] % height == 0 and size[1] % width == 0 and min(size) > 0
    return whole and (size[0] // height) * (size[1] // width) <= _MOST_TILES


def _fit(size: tuple[int, int], into: tuple[int, int]) -> tuple[int, int]:
    """(width, height) as large as fits, the aspect ratio kept; the edge that does not fill its side
    is rounded up."""
    across, down = into[0] / size[0], into[1] / size[1]
    if across < down:
        return into[0], min(math.ceil(size[1] * across), into[1])
    return min(math.ceil(size[0] * down), into[0]), into[1]
