"""InternVL's tiles: the picture squeezed onto the grid nearest to its own proportions, cut row by
row, then the whole of it.

Published models are read with this whatever ``crop_to_patches`` in their configuration says:
their processor turns it on when it is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.base import LayoutConfig, Prepared, check_cap, one_after_another, suffixed
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles
from pocketvlm.limits import is_int
from pocketvlm.media.preprocessing import Preprocessor

_MOST_TILES = 100  # published models are read with 12 at most
_MOST_IDS = 64  # before or after a picture
_SIZE = {"height": 384, "width": 384}  # where the configuration is silent, as transformers
_LIMITS = {"min_patches": 1, "max_patches": 12}  # likewise

_RECIPE = """\
A picture of W x H pixels is cut into tiles of {tile}; every resize is by the filter {filter}, of
8-bit samples, whatever the aspect ratio:

1. Of all grids of {least} to {most} tiles take that whose columns / rows is nearest to W / H. In
   the order of their tiles, and of their columns where those are equal, the first such grid; of
   further grids as near, the last that covers less than twice the picture's W H pixels.
2. Resize the picture to that grid's size and cut it into its tiles, row by row.
3. Where that is more than one tile, put the whole picture, resized to one tile, behind them.

The tiles of one picture are one batch of the vision graph; those of two pictures are two. In the
place of the picture's token come the ids {before}, an image token for each row of `image_features`,
tile after tile with nothing between, and the ids {after}."""


class ClosestTiles(Prepared):
    """See `pocketvlm.layouts.base.Layout`.

    Options: ``min_tiles`` and ``max_tiles`` that a picture is cut into, the whole not counted.
    ``before`` and ``after``, lists of the token ids around the slots of a picture.
    """

    name: ClassVar[str] = "tiles"
    processors: ClassVar[tuple[str, ...]] = suffixed("GotOcr2ImageProcessor")

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        self.min_tiles, self.max_tiles = _limits(config)
        self.before, self.after = (_ids(config, name) for name in ("before", "after"))
        self._grids = _grids(self.min_tiles, self.max_tiles)

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        stated = {key: value for key, value in processor_config.items() if value is not None}
        if stated.get("do_resize") is False:
            raise ArtifactError("the image processor has do_resize false, which is not supported")
        steps = Preprocessor.from_config(
            {"size": _SIZE, **stated, "do_center_crop": False}, cls.processors
        )
        if steps.resize_to != config.tile_size:
            raise ArtifactError(
                f"the image processor makes tiles of {stated.get('size', _SIZE)}",
                expected=f"height and width {config.tile_size}, which the vision graph reads",
                advice="export the artifact again",
            )
        layout = cls(config, steps)
        least, most = (stated.get(name, default) for name, default in _LIMITS.items())
        # A smaller limit than the processor's is an export's own choice.
        if layout.min_tiles != least or not is_int(most, layout.max_tiles):
            raise ArtifactError(
                f"the image processor cuts pictures into {least!r} to {most!r} tiles, the model "
                f"reads {layout.min_tiles} to {layout.max_tiles}",
                advice="export the artifact again",
            )
        return layout

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        height, width = self.config.tile_size
        return _RECIPE.format(
            tile=f"{height} x {width}",
            filter=self.steps.resample.name.lower(),
            least=self.min_tiles,
            most=self.max_tiles,
            before=f"`{self.before}`",
            after=f"`{self.after}`",
        )

    @property
    def caps(self) -> Mapping[str, int]:
        """See `Layout.caps`."""
        return {"max_tiles": self.max_tiles}

    @property
    def least_caps(self) -> Mapping[str, int]:
        """See `Layout.least_caps`."""
        return {"max_tiles": self.min_tiles}

    def grids(self) -> Sequence[TileGrid]:
        """Every grid of as many tiles as are allowed."""
        return sorted(self._grids, key=lambda grid: (grid.tiles, grid.rows))

    def grid(self, height: int, width: int) -> TileGrid:
        """The grid whose proportions are nearest to the picture's."""
        distances = [abs(width / height - grid.columns / grid.rows) for grid in self._grids]
        least = min(distances)
        nearest = [grid for grid, far in zip(self._grids, distances, strict=True) if far == least]
        tall, wide = self.config.tile_size
        filled = [
            grid
            for grid in nearest[1:]
            if height * width > 0.5 * tall * wide * grid.rows * grid.columns
        ]
        return [nearest[0], *filled][-1]

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """Fewer tiles; see `Layout.capped`."""
        super().capped(max_pixels=max_pixels)
        if max_tiles is None:
            return self
        check_cap(max_tiles, self.max_tiles, "max_tiles", least=self.min_tiles)
        options = {**self.config.options, "max_tiles": int(max_tiles)}
        return type(self)(dataclasses.replace(self.config, options=options), self._preprocessor)

    def views(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The parts, row by row, then the whole picture."""
        return np.stack([np.asarray(tile) for tile in self._tiles(image)])

    def cut(self, image: Image.Image) -> Tiles:
        """As `views`, normalised."""
        pixels = np.stack([self.steps(tile) for tile in self._tiles(image)])
        return Tiles(pixels, self.grid(image.height, image.width))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token, between the ids around them."""
        slots = [self.config.image_token_id] * (budget * grid.tiles)
        return np.array([*self.before, *slots, *self.after], dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """Tile after tile."""
        return one_after_another(image_features)

    def _tiles(self, image: Image.Image) -> list[Image.Image]:
        grid, resample = self.grid(image.height, image.width), self.steps.resample
        tall, wide = self.config.tile_size
        canvas = image.resize((wide * grid.columns, tall * grid.rows), resample)
        parts = [
            canvas.crop((x, y, x + wide, y + tall))
            for y in range(0, canvas.height, tall)
            for x in range(0, canvas.width, wide)
        ]
        return parts if grid.whole is None else [*parts, image.resize((wide, tall), resample)]


def _grids(least: int, most: int) -> list[TileGrid]:
    """Every grid of so many tiles: fewest tiles first, then fewest columns."""
    shapes = [
        (rows * columns, columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most // columns + 1)
        if rows * columns >= least
    ]
    return [
        TileGrid(rows, columns, "last") if tiles > 1 else TileGrid()
        for tiles, columns, rows in sorted(shapes)
    ]


def _limits(config: LayoutConfig) -> tuple[int, int]:
    """The options, checked, as the manifest is untrusted."""
    least, most = (config.options.get(name) for name in ("min_tiles", "max_tiles"))
    if type(least) is not int or type(most) is not int or not 1 <= least <= most <= _MOST_TILES:
        raise ArtifactError(
            f"the layout cuts pictures into {least!r} to {most!r} tiles",
            expected=f"whole numbers from 1 to {_MOST_TILES}",
        )
    return least, most


def _ids(config: LayoutConfig, name: str) -> list[int]:
    """Token ids of an option, none of them the image token."""
    ids = config.options.get(name)
    if (
        not isinstance(ids, list)
        or len(ids) > _MOST_IDS
        or not all(type(token) is int and token >= 0 for token in ids)
        or config.image_token_id in ids
    ):
        raise ArtifactError(
            f"the layout writes {ids!r} {name} a picture",
            expected=f"a list of at most {_MOST_IDS} token ids, the image token not among them",
        )
    return list(ids)
