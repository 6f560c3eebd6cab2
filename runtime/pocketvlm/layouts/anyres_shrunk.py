"""LLaVA-OneVision's tiles: LLaVA-NeXT's, with a shrink of what is too many features and other
rules where a prompt has several pictures."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.anyres import check_pinpoints
from pocketvlm.layouts.anyres_unpadded import AnyResUnpadded
from pocketvlm.layouts.base import LayoutConfig, suffixed
from pocketvlm.layouts.grids import Floats, Ints, TileGrid
from pocketvlm.layouts.squared import NEWLINE, Squared, tile_steps
from pocketvlm.media.preprocessing import Preprocessor

_MOST = 1_000  # tiles' worth of features; published models have 9
_SLACK = 1.1  # along an edge: features up to so much above the limit stay as they are
_RECIPE = """

Where a prompt has several pictures, none of them is cut: each is put in the middle of a square as
long as its longer edge, of the colour {colour} (red, green, blue; an odd pixel is left over at the
right or bottom), and that is resized to {base} by the same filter: one tile, whose rows of
`image_features` come in their order, and behind them the vector `image_newline` once. A picture
that was alone in a conversation is read again so as soon as another joins it."""
_SHRINK = """

With all {patches} tokens of each tile there are at most {most} x {patches} in the map: of more than
1.21 times as many, in h rows and w columns that are not padding, with
r = sqrt(h w / ({most} x {patches})) the map is resized to floor(h / r) rows and floor(w / r)
columns before newlines are added: bilinear interpolation of each feature between the centres of
places, without antialiasing."""


class AnyResShrunk(AnyResUnpadded):
    """The tiles of LLaVA-NeXT put together as ``LlavaOnevisionModel.pack_image_features`` does.

    With every token kept, a map of more features than ``most_tiles`` tiles have is shrunk, which
    mixes its tokens. Tokens that were chosen stay as they are: with pruning there is no shrink.
    Pictures of a prompt that has several are one squared tile each.

    Options: ``pinpoints`` as of `AnyRes`, and ``most_tiles``, whose features the map may have.
    """

    name: ClassVar[str] = "anyres-max"
    processors: ClassVar[tuple[str, ...]] = suffixed("LlavaOnevisionImageProcessor")

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        most = config.options.get("most_tiles")
        if type(most) is not int or not 1 <= most <= _MOST:
            raise ArtifactError(
                f"the layout's option most_tiles is {most!r}",
                expected=f"a whole number from 1 to {_MOST}",
            )
        self.most_features = most * config.patches

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        layout = cls(config, tile_steps(config, processor_config, cls.processors))
        check_pinpoints(layout.pinpoints, processor_config)
        return layout

    @property
    def steps(self) -> Preprocessor:
        """See `Layout.steps`: tiles are squares, so nothing is padded."""
        return dataclasses.replace(super().steps, pad_colour=None)

    @functools.cached_property
    def several(self) -> Squared:
        """See `Layout.several`: a square each."""
        options = {"name": Squared.name, "newline": True}
        config = dataclasses.replace(self.config, options=options)
        return Squared(config, self._preprocessor)

    @property
    def summary(self) -> str:
        """See `Layout.summary`."""
        return f"{super().summary}; several pictures of a prompt are one square tile each"

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        height, width = self.config.tile_size
        patches = self.config.patches
        most = self.most_features // patches
        shrink = _SHRINK.format(most=most, patches=patches) if self._may_shrink else ""
        colour = f"`{list(self.several.steps.pad_colour or ())}`"
        return super().recipe + shrink + _RECIPE.format(colour=colour, base=f"{height} x {width}")

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token outside of padding, and for each newline; of all tokens, for
        those that the shrink leaves."""
        tokens = budget if kept is None else kept.shape[1]
        if tokens < self.config.patches:
            return super().expand(grid, budget, kept)
        rows, columns = self._map_of(grid)
        slots = tokens + rows * (columns + 1)
        if grid.size is None and self._ratio(rows, columns) > _SLACK:
            # Pictures of other sizes leave a smaller map, which may be just small enough.
            inside = int(_SLACK**2 * self.most_features)
            slots = tokens + inside + self.side * grid.rows
        elif (shrunk := self._shrunk(rows, columns)) is not None:
            slots = tokens + shrunk[0] * (shrunk[1] + 1)
        return np.full(slots, self.config.image_token_id, dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The whole picture's, then row by row the parts', shrunk where they must be, and a
        newline."""
        arranged = super().arrange(grid, image_features, kept_indices, constants)
        rows, columns = self._map_of(grid)
        shrunk = self._shrunk(rows, columns)
        if kept_indices.shape[1] < self.config.patches or shrunk is None:
            return arranged
        whole, parts = np.split(arranged, [self.config.patches])
        hidden = arranged.shape[-1]
        features = parts.reshape(rows, columns + 1, hidden)[:, :columns]
        smaller = _resized(_resized(features, shrunk[0], axis=0), shrunk[1], axis=1)
        newlines = np.broadcast_to(constants[NEWLINE], (shrunk[0], 1, hidden))
        with_ends = np.concatenate([smaller, newlines], axis=1)
        return np.concatenate([whole, with_ends.reshape(-1, hidden)])

    @property
    def _may_shrink(self) -> bool:
        return any(self._shrunk(*self._map_of(grid)) is not None for grid in self.grids())

    def _map_of(self, grid: TileGrid) -> tuple[int, int]:
        """Rows and columns of the parts' map that are not padding."""
        rows, columns = self.unpadded(grid)
        return len(rows), len(columns)

    def _ratio(self, rows: int, columns: int) -> float:
        return math.sqrt(rows * columns / self.most_features)

    def _shrunk(self, rows: int, columns: int) -> tuple[int, int] | None:
        """What a map of so many rows and columns is resized to; None where it stays as it is."""
        ratio = self._ratio(rows, columns)
        # Floor division of floats as transformers': floor(rows / ratio) may differ.
        return (int(rows // ratio), int(columns // ratio)) if ratio > _SLACK else None


def _resized(features: Floats, size: int, axis: int) -> Floats:
    """Linear interpolation along an axis between the centres of places, without antialiasing."""
    old = features.shape[axis]
    scale = np.float32(old) / np.float32(size)
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = np.maximum(at, np.float32(0))
    low = at.astype(np.int64)
    high = np.minimum(low + 1, old - 1)
    part = (at - low.astype(np.float32)).astype(np.float32)
    weight = part.reshape([-1 if dim == axis else 1 for dim in range(features.ndim)])
    lower, upper = features.take(low, axis), features.take(high, axis)
    resized: Floats = lower * (1 - weight) + upper * weight
    return resized
