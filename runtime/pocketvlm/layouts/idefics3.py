"""Idefics3's and SmolVLM's tiles: the picture cut into parts row by row, then the whole of it,
named in the prompt.

Around the slots of every tile are tokens that name its part of the picture. A picture that
is not cut is one tile, announced as the whole.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.base import (
    LayoutConfig,
    Medium,
    Prepared,
    check_cap,
    no_cap,
    one_after_another,
    suffixed,
)
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles
from pocketvlm.media.preprocessing import Preprocessor

_MOST_EDGE = 4096  # transformers makes pictures smaller than that, whatever longest_edge says
_MOST_TILES = 100  # published models cut into 4 x 4 and 5 x 5
_MOST_IDS = 64  # of the name of a part
_MARKS = ("around", "whole", "row_end", "last_row_end")
_STANDARD = [0.5, 0.5, 0.5]  # mean and standard deviation where the configuration is silent

_RECIPE_SQUEEZED = """\
Resize the picture to {tile} by the filter {filter}, whatever its aspect ratio."""
_RECIPE_ONE = """\
Resize the picture to {longest} pixels along its longer edge by the filter {filter} (the shorter
edge cut to an integer, made even by adding 1, at least 1), then to {tile} by the same, whatever its
aspect ratio."""
_RECIPE = """\
A picture of W x H pixels is cut into tiles of {tile}; every resize is by the filter {filter}, of
8-bit samples:

1. {first} it to {longest} pixels along its longer edge, the shorter edge in proportion: cut to an
   integer, made even by adding 1, at least 1.
2. Resize it to whole tiles: the longer edge rounded up to a multiple of {edge}, the shorter in
   proportion to that, cut to an integer and rounded up to a multiple of {edge}.
3. Cut that into parts, row by row, and after them, as the last tile, put all of it resized to
   {tile}. Where it is one tile already, that is the only one.

The tiles of one picture are one batch of the vision graph; those of two pictures are two. In the
place of the picture's token come, for each part in row r and column c (from 1): {around}, the ids
of its name below, and an image token for each row of its `image_features`; after each row of parts
{row_end}, after the last {last_row_end} instead. Then come {around}, {whole}, the image tokens of
the last tile, {around}. Rows of features fill the image tokens in that order."""


class Idefics3(Prepared):
    """See `pocketvlm.layouts.base.Layout`.

    Options: ``longest_edge`` in pixels; ``splits``, whether pictures are cut at all. ``resizes``:
        whether every picture is resized to ``longest_edge`` first (the default), or only a larger
        one that is cut. ``marks``: token ids by the names of `_MARKS`. ``parts``: the token ids
        that name the part in each row and column, ``[row][column]``.
    """

    name: ClassVar[str] = "idefics3"
    medium: ClassVar[Medium] = "image"
    processors: ClassVar[tuple[str, ...]] = suffixed(
        "Idefics3ImageProcessor", "SmolVLMImageProcessor"
    )

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        self.edge = config.tile_size[0]
        self.longest_edge, self.splits, self.resizes = _geometry(config)
        self._check_grids()
        self.marks, self.parts = self._names()

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        layout = cls(config, tile_steps(processor_config))
        stated = geometry_of(processor_config)
        # Where it does not resize, how large pictures may be is an export's own choice.
        longest = stated[0] if layout.resizes else layout.longest_edge
        if (longest, *stated[1:]) != (
            layout.longest_edge,
            layout.splits,
            layout.edge,
            layout.resizes,
        ):
            raise ArtifactError(
                f"the image processor makes tiles of {stated[2]} pixels of pictures of "
                f"{stated[0]}, {'cut' if stated[1] else 'not cut'}; the vision graph reads "
                f"tiles of {layout.edge} of pictures of {layout.longest_edge}, "
                f"{'cut' if layout.splits else 'not cut'}",
                advice="export the artifact again",
            )
        return layout

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        longest = min(self.longest_edge, _MOST_EDGE)
        values: dict[str, Any] = {
            "longest": longest,
            "edge": self.edge,
            "tile": f"{self.edge} x {self.edge}",
        }
        values["filter"] = self.steps.resample.name.lower()
        values["first"] = "Resize" if self.resizes else "Where it is larger than that, resize"
        if not self.resizes and not self.splits:
            return _RECIPE_SQUEEZED.format(**values)
        if len(self.grids()) == 1 and self.grids()[0].tiles == 1:
            return _RECIPE_ONE.format(**values)
        values |= {name: f"`{ids}`" for name, ids in self.marks.items()}
        names = "\n".join(
            f"- row {row}, column {column}: `{ids}`"
            for row, line in enumerate(self.parts, start=1)
            for column, ids in enumerate(line, start=1)
        )
        return f"{_RECIPE.format(**values)}\n\n{names}"

    @property
    def figures(self) -> Mapping[str, Any]:
        """See `Layout.figures`: the edge in pixels that no resized picture is longer than."""
        return {"most_edge": _MOST_EDGE}

    @functools.cached_property
    def _grids(self) -> list[TileGrid]:
        longest = self.longest_edge
        if self.splits and not self.resizes:
            edges = range(1, self._up(longest) // self.edge + 1)
            every = [
                self._grid_of(rows * self.edge, columns * self.edge)
                for rows in edges
                for columns in edges
            ]
            return sorted(every, key=lambda grid: (grid.tiles, grid.rows))
        wide = [(short, longest) for short in (1, *range(2, longest + 2, 2))]
        tall = [(longest, short) for short in (1, *range(2, longest + 1, 2))]
        grids = {self._grid_of(*self._whole_tiles(*_below_most(*size))) for size in wide + tall}
        return sorted(grids, key=lambda grid: (grid.tiles, grid.rows))

    def grids(self) -> Sequence[TileGrid]:
        """The grids of all shapes that the first resize can give."""
        return self._grids

    def grid(self, height: int, width: int) -> TileGrid:
        """As many tiles as the resized picture covers."""
        return self._grid_of(*self._resized(height, width))

    @property
    def caps(self) -> Mapping[str, int]:
        """See `Layout.caps`."""
        largest = self.grids()[-1]
        return {"max_tiles": largest.rows * largest.columns} if self.splits else {}

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """Fewer tiles, by making pictures smaller before they are cut; see `Layout.capped`."""
        super().capped(max_pixels=max_pixels)
        if max_tiles is None:
            return self
        if not self.splits:
            raise no_cap(self.name, "max_tiles", "pictures are not cut here")
        check_cap(max_tiles, self.caps["max_tiles"], "max_tiles")
        longest = min(self.longest_edge, math.isqrt(max_tiles) * self.edge)
        options = {**self.config.options, "longest_edge": longest}
        return type(self)(dataclasses.replace(self.config, options=options), self._preprocessor)

    def views(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The parts, row by row, then the whole picture."""
        return np.stack([self.steps.resize_and_crop(tile) for tile in self._tiles(image)])

    def cut(self, image: Image.Image) -> Tiles:
        """As `views`, normalised."""
        pixels = np.stack([self.steps(tile) for tile in self._tiles(image)])
        return Tiles(pixels, self.grid(image.height, image.width))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """The slots of each tile behind the ids that name it."""
        slots = [self.config.image_token_id] * budget
        around, whole = self.marks["around"], self.marks["whole"]
        ids: list[int] = []
        if grid.whole is not None:
            for row in range(grid.rows):
                for column in range(grid.columns):
                    ids += around + self.parts[row][column] + slots
                ids += self.marks["last_row_end" if row == grid.rows - 1 else "row_end"]
        return np.array(ids + around + whole + slots + around, dtype=np.int64)

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
        """Resized as often as transformers does: each resize rounds to 8 bits."""
        resample, edge = self.steps.resample, self.edge
        first = self._first_size(image.height, image.width)
        height, width = self._whole_tiles(*first)
        if first != (image.height, image.width) or self.resizes:
            image = image.resize(first[::-1], resample)
        resized = image.resize((width, height), resample)
        if self._grid_of(height, width).tiles == 1:
            return [resized]
        corners = [(x, y) for y in range(0, height, edge) for x in range(0, width, edge)]
        parts = [resized.crop((x, y, x + edge, y + edge)) for x, y in corners]
        return [*parts, resized.resize((edge, edge), resample)]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        return self._whole_tiles(*self._first_size(height, width))

    def _first_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture before it is brought to whole tiles."""
        if not self.resizes and (not self.splits or max(height, width) <= self.longest_edge):
            return height, width
        return _below_most(*_scaled(height, width, self.longest_edge))

    def _whole_tiles(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in whole tiles; computed in this order, as transformers does, rounding
        included."""
        if not self.splits:
            return self.edge, self.edge
        aspect = width / height
        if width >= height:
            width = self._up(width)
            return self._up(int(width / aspect)), width
        height = self._up(height)
        return height, self._up(int(height * aspect))

    def _up(self, length: int) -> int:
        return math.ceil(length / self.edge) * self.edge

    def _grid_of(self, height: int, width: int) -> TileGrid:
        rows, columns = height // self.edge, width // self.edge
        return TileGrid(rows, columns, "last") if rows * columns > 1 else TileGrid()

    def _check_grids(self) -> None:
        square = self.config.image_size == (self.edge, self.edge)
        longest = min(self.longest_edge, _MOST_EDGE) if self.resizes else self.longest_edge
        most = self._up(longest) // self.edge if self.splits else 1
        if not square or most**2 > _MOST_TILES:
            raise ArtifactError(
                f"pictures of {self.longest_edge} pixels cannot be cut into tiles of "
                f"{self.config.image_size} pixels",
                expected=f"square tiles, {_MOST_TILES} of a picture at most",
            )

    def _names(self) -> tuple[dict[str, list[int]], list[list[list[int]]]]:
        """The ids in the options, checked, as the manifest is untrusted."""
        marks, parts = self.config.options.get("marks"), self.config.options.get("parts")
        sound = isinstance(marks, Mapping) and all(
            self._are_ids(marks.get(name)) for name in _MARKS
        )
        sound = sound and isinstance(parts, list) and all(isinstance(row, list) for row in parts)
        for grid in self.grids() if sound else []:
            if grid.whole is not None:
                named = [row[: grid.columns] for row in (parts or [])[: grid.rows]]
                sound = sound and len(named) == grid.rows
                sound = sound and all(
                    len(row) == grid.columns and all(map(self._are_ids, row)) for row in named
                )
        if not sound:
            raise ArtifactError(
                "the layout's token ids do not name all parts that a picture may be cut into",
                advice="export the artifact again",
            )
        return {name: list((marks or {})[name]) for name in _MARKS}, list(parts or [])

    def _are_ids(self, ids: Any) -> bool:
        if not isinstance(ids, list) or len(ids) > _MOST_IDS:
            return False
        return all(
            type(token) is int and token >= 0 and token != self.config.image_token_id
            for token in ids
        )


def geometry_of(processor_config: Mapping[str, Any]) -> tuple[int, bool, int, bool]:
    """(longest edge, whether pictures are cut, edge of a tile, whether pictures are resized first)
    that an image processor's configuration states.

    One that does not resize cuts pictures of any size: the longest edge is then that of as many
    tiles as a picture may have here.

    Raises:
        PocketVLMError: it resizes otherwise.
    """
    size, most = (
        processor_config.get("size") or {"longest_edge": 4 * 364},
        processor_config.get("max_image_size") or {"longest_edge": 364},
    )
    longest, edge = (
        value.get("longest_edge") if isinstance(value, Mapping) else None for value in (size, most)
    )
    resizes, splits = (
        processor_config.get(name) is not False for name in ("do_resize", "do_image_splitting")
    )
    if not resizes and _is_edge(edge):
        most_tiles = min(math.isqrt(_MOST_TILES), 4 * _MOST_EDGE // edge)
        return edge * most_tiles, splits, edge, resizes
    if not (_is_edge(longest) and _is_edge(edge)):
        raise ArtifactError(
            f"the image processor has size {size}, max_image_size {most}",
            expected="a longest_edge of whole pixels in both",
        )
    return longest, splits, edge, resizes


def tile_steps(processor_config: Mapping[str, Any]) -> Preprocessor:
    """The preprocessing of a tile once it is cut: samples are scaled and normalised."""
    stated = {key: value for key, value in processor_config.items() if value is not None}
    defaults = {
        "resample": Image.Resampling.LANCZOS,
        "image_mean": _STANDARD,
        "image_std": _STANDARD,
    }
    return Preprocessor.from_config(
        {**defaults, **stated, "do_resize": False, "do_center_crop": False},
        Idefics3.processors,
    )


def _geometry(config: LayoutConfig) -> tuple[int, bool, bool]:
    longest, splits = config.options.get("longest_edge"), config.options.get("splits")
    resizes = config.options.get("resizes", True)
    if not _is_edge(longest) or not isinstance(splits, bool) or not isinstance(resizes, bool):
        raise ArtifactError(
            f"the layout has longest_edge {longest!r}, splits {splits!r}, resizes {resizes!r}",
            expected="pixels, and true or false twice",
        )
    return longest, splits, resizes


def _is_edge(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= 4 * _MOST_EDGE


def _scaled(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) with the longer edge at ``longest`` and the shorter one even; as transformers
    rounds."""
    aspect = width / height
    if width >= height:
        short = int(longest / aspect)
        return max(short + short % 2, 1), longest
    short = int(longest * aspect)
    return longest, max(short + short % 2, 1)


def _below_most(height: int, width: int) -> tuple[int, int]:
    aspect = width / height
    if width >= height and width > _MOST_EDGE:
        return max(int(_MOST_EDGE / aspect), 1), _MOST_EDGE
    if height > width and height > _MOST_EDGE:
        return _MOST_EDGE, max(int(_MOST_EDGE * aspect), 1)
    return height, width
