"""LFM2-VL's tiles: a large picture is resized to the grid nearest to its proportions and cut row by
row. The whole of it follows as a thumbnail of another size. Each is named in the prompt.

A picture that is not large is one tile of about its own size, as `MarkedResize` makes it. So is the
thumbnail, and the vision graph runs twice for a picture that is cut.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.base import LayoutConfig, Views, check_cap, one_after_another
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles, TokenGrid
from pocketvlm.layouts.marked_resize import MarkedResize, are_ids
from pocketvlm.layouts.smart_resize import smallest_area
from pocketvlm.limits import is_int
from pocketvlm.media.preprocessing import Preprocessor

_MOST_TILES = 100  # published models are read with 10 at most
_MOST_EDGE = 4096  # of a tile in pixels
_MOST_AREA = 1 << 26  # pixels of a picture in one tile; published models cut from 524288 on
# Where the configuration is silent, as transformers.
_DEFAULTS = {"encoder_patch_size": 16, "tile_size": 512, "min_tiles": 2, "max_tiles": 10}
_TOLERANCE = 2.0

_RECIPE = """\
{whole}
That is a picture that is not large, and the thumbnail of one that is. With the edge {patch} of a
patch, a picture is large where max({patch}, {factor} round(H / {factor})) times
max({patch}, {factor} round(W / {factor})) is more than {large}. It is cut:

1. Of these grids (columns x rows) take that whose columns / rows is nearest to W / H, the first
   of several as near: {grids}. Of further grids as near, the last with
   W H > {half} columns rows.
2. Resize the picture to that grid of tiles of {tile} x {tile} pixels, whatever the aspect ratio,
   and cut it row by row. The tiles are one batch of the vision graph{last}.

In the place of the picture's token come the ids {before}, then for each tile in row r and column c
(from 1) the ids of its name below and an image token for each row of its `image_features`,{behind}
and last the ids {after}. A picture that is not large has its own image tokens between {before} and
{after}.

{names}"""
_LAST = """; the thumbnail, the whole picture at
   its own size as above, is a batch of its own behind them"""
_BEHIND = "\nthen the ids {ids} and those of the thumbnail,"


@dataclass(frozen=True)
class Cutting:
    """How an image processor cuts large pictures.

    Attributes:
        tile: edge of a tile in pixels.
        min_tiles, max_tiles: parts of a picture, the thumbnail not counted.
        cut_above: area in pixels that the picture, rounded to whole tokens, has more than.
        patch: edge of a patch in pixels, to which a narrow picture is rounded up at least.
        thumbnail: whether the whole picture comes behind the tiles.
    """

    tile: int
    min_tiles: int
    max_tiles: int
    cut_above: int
    patch: int
    thumbnail: bool


class TilesAndThumbnail(MarkedResize):
    """See `pocketvlm.layouts.base.Layout`.

    Options: those of `MarkedResize` but for ``size``, the fields of `Cutting`, ``parts``, the token
    ids that name the part in each row and column, ``[row][column]``, and ``whole``, those in front
    of the thumbnail. With ``max_tiles`` 1 no picture is cut.
    """

    name: ClassVar[str] = "tiles-and-thumbnail"
    one_grid: ClassVar[bool] = False

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        self.cutting = self._cutting()
        self.parts, self.whole = self._names()

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        layout = super().make(config, processor_config)
        if processor_config is None:
            return layout
        own, made = layout.cutting, cls.cutting_stated(processor_config)
        # Fewer tiles than the processor's are an export's own choice.
        if made is None or own != dataclasses.replace(
            made, max_tiles=min(own.max_tiles, made.max_tiles)
        ):
            raise ArtifactError(
                f"the image processor cuts pictures by {made}, the model reads {own}",
                advice="export the artifact again",
            )
        return layout

    @classmethod
    def cutting_stated(cls, processor_config: Mapping[str, Any]) -> Cutting | None:
        """How an image processor's configuration says that pictures are cut; None where it says
        that they are not.

        Raises:
            ArtifactError: it states no such numbers.
        """
        stated = {key: value for key, value in processor_config.items() if value is not None}
        splits, thumbnail = (
            stated.get(name, True) for name in ("do_image_splitting", "use_thumbnail")
        )
        numbers = {name: stated.get(name, default) for name, default in _DEFAULTS.items()}
        tolerance = stated.get("max_pixels_tolerance", _TOLERANCE)
        sound = all(is_int(value, 1) for value in numbers.values())
        sound = sound and type(tolerance) in (int, float) and 0 < tolerance <= _MOST_AREA
        if not sound or not isinstance(splits, bool) or not isinstance(thumbnail, bool):
            raise ArtifactError(
                f"the image processor has {numbers}, max_pixels_tolerance {tolerance!r}, "
                f"do_image_splitting {splits!r}, use_thumbnail {thumbnail!r}",
                expected="whole numbers from 1 on, a number above 0, and true or false twice",
            )
        patch, tile, least, most = numbers.values()
        if not splits or (least, most) == (1, 1):
            return None
        _, _, max_pixels = cls.stated(processor_config)
        if max_pixels > _MOST_AREA or max_pixels * tolerance > _MOST_AREA:
            raise ArtifactError(
                f"the image processor takes {max_pixels} pixels, and {tolerance} times as many, "
                "for one tile",
                expected=f"at most {_MOST_AREA}",
            )
        return Cutting(tile, least, most, math.floor(max_pixels * tolerance), patch, thumbnail)

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        cutting, whole = self.cutting, self._sizes()
        if not self._shapes:
            return super().recipe
        names = "\n".join(
            f"- row {row}, column {column}: `{ids}`"
            for row, line in enumerate(self.parts, start=1)
            for column, ids in enumerate(line, start=1)
        )
        return _RECIPE.format(
            whole=whole,
            patch=cutting.patch,
            factor=self.factor,
            large=cutting.cut_above,
            grids=", ".join(f"{columns} x {rows}" for columns, rows in self._shapes),
            half=cutting.tile**2 // 2 if cutting.tile % 2 == 0 else cutting.tile**2 / 2,
            tile=cutting.tile,
            last=_LAST if cutting.thumbnail else "",
            behind=_BEHIND.format(ids=f"`{self.whole}`") if cutting.thumbnail else "",
            before=f"`{self.before}`",
            after=f"`{self.after}`",
            names=names,
        )

    @property
    def figures(self) -> Mapping[str, Any]:
        """See `Layout.figures`: also the grids (columns, rows) in the order in which they are
        looked at, empty where no picture is cut."""
        return {**super().figures, "grids": [list(shape) for shape in self._shapes]}

    @property
    def summary(self) -> str:
        """See `Layout.summary`."""
        if not self._shapes:
            return super().summary
        cutting = self.cutting
        thumbnail = " and a thumbnail" if cutting.thumbnail else ""
        return (
            f"at most {cutting.max_tiles} tiles of {cutting.tile}x{cutting.tile} pixels"
            f"{thumbnail}, a picture of up to {cutting.cut_above} pixels in one tile, layout "
            f"{self.name}"
        )

    @property
    def caps(self) -> Mapping[str, int]:
        """See `Layout.caps`."""
        most = self.max_pixels
        if self._shapes:
            most = max(most, self.cutting.tile**2)
        return {"max_pixels": most, "max_tiles": self.cutting.max_tiles}

    def grids(self) -> Sequence[TileGrid]:
        """One tile, then every grid of tiles, each with the largest thumbnail that there is."""
        (whole,) = super().grids()
        cut = [self._cut_into(rows, columns, whole.tokens) for columns, rows in self._shapes]
        return [
            whole,
            *sorted(cut, key=lambda grid: (grid.tiles, min(grid.rows, grid.columns), grid.rows)),
        ]

    def largest_size(self) -> tuple[int, int]:
        """See `Layout.largest_size`."""
        grid, factor = self.grids()[-1], self.factor
        if not self._shapes:
            return super().largest_size()
        height, width = self.cutting.tile * grid.rows, self.cutting.tile * grid.columns
        while not self._is_large(height, width):  # a grid of few tiles may be no large picture
            height, width = height + factor * grid.rows, width + factor * grid.columns
        return height, width

    def grid(self, height: int, width: int) -> TileGrid:
        """One tile of as many tokens as the resized picture covers, or the grid whose proportions
        are nearest to the picture's. Raises `PictureError` for one that is too narrow."""
        whole = super().grid(height, width)
        if not self._is_large(height, width):
            return whole
        columns, rows = self._nearest(height, width)
        return self._cut_into(rows, columns, whole.tokens)

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """Smaller pictures and tiles, or fewer tiles; see `Layout.capped`. Which pictures are
        large stays as it is. Where that is fewer tiles than any picture is cut into, none is."""
        options, factor = dict(self.config.options), self.factor
        if max_tiles is not None:
            most = int(check_cap(max_tiles, self.cutting.max_tiles, "max_tiles"))
            least = self.cutting.min_tiles
            options |= {"max_tiles": most} if most >= least else {"min_tiles": 1, "max_tiles": 1}
        if max_pixels is not None:
            most = int(check_cap(max_pixels, self.caps["max_pixels"], "max_pixels", factor**2))
            whole = min(self.max_pixels, most)
            options |= {
                "tile": min(self.cutting.tile, largest_tile(most, factor)),
                "max_pixels": whole,
                "min_pixels": smallest_area(self.min_pixels, whole, factor),
            }
        return type(self)(dataclasses.replace(self.config, options=options), self._preprocessor)

    def views(self, image: Image.Image) -> Views:
        """The tiles, row by row, then the thumbnail; or the only tile."""
        return [np.asarray(tile) for tile in self._tiles(image)]

    def cut(self, image: Image.Image) -> Tiles:
        """As `views`, normalised, the thumbnail in a batch of its own."""
        grid = self.grid(image.height, image.width)
        pixels = [self.steps(tile) for tile in self._tiles(image)]
        if grid.whole is None:
            return Tiles(np.stack(pixels), grid)
        return Tiles(np.stack(pixels[:-1]), grid, (pixels[-1][None],))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """The slots of each tile behind the ids that name it: as many as the budget, or all of a
        tile with fewer tokens."""
        slot = self.config.image_token_id
        if grid.rows * grid.columns == 1:
            return super().expand(grid, budget)
        ids = list(self.before)
        for row in range(grid.rows):
            for column in range(grid.columns):
                ids += self.parts[row][column]
                ids += [slot] * min(budget, self.token_grid(grid).tokens)
        if grid.whole_tokens is not None:
            ids += self.whole + [slot] * min(budget, grid.whole_tokens.tokens)
        return np.array(ids + self.after, dtype=np.int64)

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
        if grid.rows * grid.columns == 1:
            return [self._resize(image)]
        edge = self.cutting.tile
        canvas = image.resize((edge * grid.columns, edge * grid.rows), resample)
        corners = [
            (x, y) for y in range(0, canvas.height, edge) for x in range(0, canvas.width, edge)
        ]
        parts = [canvas.crop((x, y, x + edge, y + edge)) for x, y in corners]
        return parts if grid.whole is None else [*parts, self._resize(image)]

    def _cut_into(self, rows: int, columns: int, whole: TokenGrid | None) -> TileGrid:
        side = self.cutting.tile // self.factor
        tokens = TokenGrid(side, side)
        if not self.cutting.thumbnail:
            return TileGrid(rows, columns, tokens=tokens)
        return TileGrid(rows, columns, "last", tokens=tokens, whole_tokens=whole)

    @functools.cached_property
    def _shapes(self) -> list[tuple[int, int]]:
        """(columns, rows) of every grid, those of fewer tiles first; none where nothing is cut."""
        least, most = self.cutting.min_tiles, self.cutting.max_tiles
        if most == 1:
            return []
        # Of grids with as many tiles transformers takes them as a set lists them. That decides
        # between 1 x 2 and 2 x 1 for a picture of 5 x 4 that may have three tiles at most.
        every = {
            (columns, rows)
            for tiles in range(least, most + 1)
            for columns in range(1, tiles + 1)
            for rows in range(1, tiles + 1)
            if least <= columns * rows <= most
        }
        return sorted(every, key=lambda shape: shape[0] * shape[1])

    def _is_large(self, height: int, width: int) -> bool:
        if not self._shapes:
            return False
        patch, factor = self.cutting.patch, self.factor
        tall, wide = (max(patch, round(edge / factor) * factor) for edge in (height, width))
        return tall * wide > self.cutting.cut_above

    def _nearest(self, height: int, width: int) -> tuple[int, int]:
        """(columns, rows) of the grid that a large picture is cut into."""
        distances = [abs(width / height - columns / rows) for columns, rows in self._shapes]
        least = min(distances)
        nearest = [
            shape for shape, far in zip(self._shapes, distances, strict=True) if far == least
        ]
        area = self.cutting.tile**2
        filled = [
            (columns, rows)
            for columns, rows in nearest[1:]
            if height * width > 0.5 * area * columns * rows
        ]
        return [nearest[0], *filled][-1]

    def _cutting(self) -> Cutting:
        """The options, checked, as the manifest is untrusted."""
        options, factor = self.config.options, self.factor
        names = [field.name for field in dataclasses.fields(Cutting)]
        cutting = Cutting(**{name: options.get(name) for name in names})  # type: ignore[arg-type]
        *numbers, thumbnail = dataclasses.astuple(cutting)
        sound = all(is_int(value, 1) for value in numbers) and isinstance(thumbnail, bool)
        sound = sound and self.size is None and cutting.patch <= factor
        sound = sound and cutting.tile <= _MOST_EDGE and cutting.tile % factor == 0
        sound = sound and cutting.cut_above <= _MOST_AREA
        sound = sound and (cutting.tile // factor) ** 2 <= self.config.patches
        least, most = cutting.min_tiles, cutting.max_tiles
        # A picture that is cut into a single tile would be one of another size, and no thumbnail.
        if not sound or not ((least, most) == (1, 1) or 2 <= least <= most <= _MOST_TILES):
            raise ArtifactError(
                f"the layout cuts pictures by {cutting}",
                expected=f"2 to {_MOST_TILES} tiles, or 1, of whole tokens of {factor} pixels, "
                f"{self.config.patches} at most, and {_MOST_AREA} pixels in one tile",
                advice="export the artifact again",
            )
        return cutting

    def _names(self) -> tuple[list[list[list[int]]], list[int]]:
        """The ids in the options, checked, as the manifest is untrusted."""
        parts, whole = (self.config.options.get(name) for name in ("parts", "whole"))
        slot = self.config.image_token_id
        sound = are_ids(whole, slot) and isinstance(parts, list)
        for columns, rows in self._shapes if sound else []:
            lines = parts[:rows] if isinstance(parts, list) else []
            sound = sound and len(lines) == rows
            for line in lines:
                sound = sound and isinstance(line, list) and len(line) >= columns
                sound = sound and all(are_ids(ids, slot) for ids in line[:columns])
        if not sound or not isinstance(parts, list) or not isinstance(whole, list):
            raise ArtifactError(
                "the layout's token ids do not name all parts that a picture may be cut into",
                advice="export the artifact again",
            )
        return parts, list(whole)


def largest_tile(pixels: int, factor: int) -> int:
    """Edge of the largest square tile of whole tokens that has no more ``pixels``."""
    return math.isqrt(pixels) // factor * factor
