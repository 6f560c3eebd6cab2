"""Qwen2-VL's, Qwen2.5-VL's and Qwen3-VL's pictures: one tile of about the picture's own size and
proportions, in whole tokens.

The tower's work and the tokens therefore follow from the picture. An export may fix the size
instead, for runtimes that need constant shapes: every picture is then resized to exactly that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image

from pocketvlm.errors import ArtifactError, PictureError
from pocketvlm.layouts.base import LayoutConfig, Prepared, Views, check_cap, no_cap, suffixed
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles, TokenGrid
from pocketvlm.limits import is_int
from pocketvlm.media.preprocessing import Preprocessor

_MOST_ASPECT = 200  # longer edge by shorter edge; transformers refuses others too
_MOST_FACTOR = 1024
_MOST_PIXELS = 1 << 25  # twice the largest published limit
# Where the configuration is silent, as transformers.
_DEFAULTS = {"patch_size": 14, "merge_size": 2}
_MIN_PIXELS, _MAX_PIXELS = 56 * 56, 1280 * 28 * 28

_RECIPE_FIXED = """\
A picture is resized to {height} x {width} pixels (height x width) by the filter {filter}, of 8-bit
samples, whatever its aspect ratio."""
_RECIPE = """\
A picture of W x H pixels is resized to w x h by the filter {filter}, of 8-bit samples; its longer
edge has at most {aspect} times the pixels of its shorter one. With f = {factor} (every division is
in double precision, `round` takes halves to the even number):

1. h = f round(H / f), w = f round(W / f).
2. Where h w > {most}: b = sqrt(H W / {most}), h = max(f, f floor(H / b / f)), and w likewise.
   Where h w < {least}: b = sqrt({least} / (H W)), h = f ceil(H b / f), and w likewise.

The picture then has (h / f) (w / f) tokens before pruning, in reading order; `image_features` has
as many rows as are kept, all of them where they are no more than the budget."""


class SmartResize(Prepared):
    """See `pocketvlm.layouts.base.Layout`.

    Options: ``factor``, the edge of a token in pixels; either ``min_pixels`` and ``max_pixels``,
    height times width that pictures are resized between, or ``size``, [height, width] that they are
    all resized to. A picture keeps min(budget, N) tokens.
    """

    name: ClassVar[str] = "smart-resize"
    processors: ClassVar[tuple[str, ...]] = suffixed("Qwen2VLImageProcessor")
    one_grid: ClassVar[bool] = True
    most_aspect: ClassVar[int] = _MOST_ASPECT

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        self.factor = _factor(config)
        self.size = _size(config, self.factor)
        self.min_pixels, self.max_pixels = (0, 0) if self.size else _pixels(config, self.factor)

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        if processor_config.get("do_resize") is False:
            raise ArtifactError("the image processor has do_resize false, which is not supported")
        steps = Preprocessor.from_config(
            {**processor_config, "size": None, "do_resize": False, "do_center_crop": False},
            cls.processors,
        )
        layout = cls(config, steps)
        factor, least, most = cls.stated(processor_config)
        # Smaller pictures than the processor's are an export's own choice.
        fits = layout.size or (
            layout.max_pixels <= most
            and layout.min_pixels in (least, smallest_area(least, layout.max_pixels, factor))
        )
        if factor != layout.factor or not fits:
            raise ArtifactError(
                f"the image processor makes pictures of {least} to {most} pixels, in multiples of "
                f"{factor}; the model reads {layout.min_pixels} to {layout.max_pixels}, in "
                f"multiples of {layout.factor}",
                advice="export the artifact again",
            )
        return layout

    @classmethod
    def stated(cls, processor_config: Mapping[str, Any]) -> tuple[int, int, int]:
        """See `geometry_of`."""
        return geometry_of(processor_config)

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        name = self.steps.resample.name.lower()
        if self.size:
            return _RECIPE_FIXED.format(height=self.size[0], width=self.size[1], filter=name)
        return _RECIPE.format(
            filter=name,
            aspect=_MOST_ASPECT,
            factor=self.factor,
            least=self.min_pixels,
            most=self.max_pixels,
        )

    @property
    def summary(self) -> str:
        """See `Layout.summary`."""
        if self.size:
            return f"all resized to {self.size[1]}x{self.size[0]} pixels"
        most = min(self.max_pixels // self.factor**2, self.config.patches)
        return f"any size up to {self.max_pixels} pixels, at most {most} tokens"

    @property
    def figures(self) -> Mapping[str, Any]:
        """See `Layout.figures`: how much longer than the other an edge may be."""
        return {"most_aspect": self.most_aspect}

    @property
    def caps(self) -> Mapping[str, int]:
        """See `Layout.caps`."""
        return {} if self.size else {"max_pixels": self.max_pixels}

    @property
    def least_caps(self) -> Mapping[str, int]:
        """See `Layout.least_caps`."""
        return {"max_pixels": self.factor**2}

    def grids(self) -> Sequence[TileGrid]:
        """The only one, or with dynamic resolution that of the largest picture, as near to a square
        as it can be."""
        if self.size:
            return [self._grid_of(*self.size)]
        most = min(self.max_pixels // self.factor**2, self.config.patches)
        rows = max(
            range(1, math.isqrt(most) + 1),
            key=lambda rows: (rows * min(most // rows, self.most_aspect * rows), rows),
        )
        columns = min(most // rows, self.most_aspect * rows)
        return [TileGrid(tokens=TokenGrid(rows, columns))]

    def largest_size(self) -> tuple[int, int]:
        """See `Layout.largest_size`."""
        tokens = self.token_grid(self.grids()[-1])
        return tokens.rows * self.factor, tokens.columns * self.factor

    def grid(self, height: int, width: int) -> TileGrid:
        """One tile of as many tokens as the resized picture covers; raises `PictureError` for one
        that is too narrow."""
        return self._grid_of(*self.resized(height, width))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture is resized to; raises `PictureError` for one that is too
        narrow."""
        if self.size:
            return self.size
        size = None
        if max(height, width) <= self.most_aspect * min(height, width):
            size = self.size_of(height, width)
        # Where few tokens are allowed, a narrow picture takes more of them, as in transformers.
        if size is None or self._tokens(*size).tokens > self.config.patches:
            raise PictureError(
                f"a picture of {width}x{height} pixels is too narrow", advice="crop it first"
            )
        return size

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that transformers resizes a picture to, whatever its proportions."""
        return smart_size(height, width, self.factor, self.min_pixels, self.max_pixels)

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """Smaller pictures; see `Layout.capped`."""
        super().capped(max_tiles=max_tiles)
        if max_pixels is None:
            return self
        if self.size:
            raise no_cap(self.name, "max_pixels", "pictures were given a fixed size at the export")
        most = int(check_cap(max_pixels, self.max_pixels, "max_pixels", least=self.factor**2))
        options = {
            **self.config.options,
            "max_pixels": most,
            "min_pixels": smallest_area(self.min_pixels, most, self.factor),
        }
        return type(self)(dataclasses.replace(self.config, options=options), self._preprocessor)

    def views(self, image: Image.Image) -> Views:
        """The picture as resized."""
        return np.asarray(self._resize(image))[None]

    def cut(self, image: Image.Image) -> Tiles:
        """The picture in one tile, (1, 3, height, width)."""
        return Tiles(self.steps(self._resize(image))[None], self.grid(image.height, image.width))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token: as many as the budget, or all of a picture with fewer."""
        slots = min(budget, self.token_grid(grid).tokens)
        return np.full(slots, self.config.image_token_id, dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The features of the only tile, in their order."""
        return image_features[0]

    def _resize(self, image: Image.Image) -> Image.Image:
        height, width = self.resized(image.height, image.width)
        return image.resize((width, height), self.steps.resample)

    def _grid_of(self, height: int, width: int) -> TileGrid:
        return TileGrid(tokens=self._tokens(height, width))

    def _tokens(self, height: int, width: int) -> TokenGrid:
        return TokenGrid(height // self.factor, width // self.factor)


def smart_size(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int, *, least: int = 0
) -> tuple[int, int]:
    """(height, width) near a picture's own, in multiples of ``factor``, its area within the limits
    where its proportions allow that. An edge is rounded to ``least`` at least, before its area is
    looked at.

    Computed in this order, as transformers does, rounding included.
    """
    tall, wide = (max(least, round(edge / factor) * factor) for edge in (height, width))
    if tall * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall, wide = (
            max(factor, math.floor(edge / shrink / factor) * factor) for edge in (height, width)
        )
    elif tall * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        tall, wide = (math.ceil(edge * grow / factor) * factor for edge in (height, width))
    return tall, wide


def smallest_area(least: int, most: int, factor: int) -> int:
    """``min_pixels`` under a cap on ``max_pixels``: the image processor's, unless a picture that is
    made larger for it could go over the cap; then a single token."""
    return least if 4 * least <= most else factor**2


def geometry_of(processor_config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(factor, min_pixels, max_pixels) that an image processor's configuration states, whichever
    way it does.

    Raises:
        ArtifactError: it states no whole numbers.
    """
    stated = {key: value for key, value in processor_config.items() if value is not None}
    size = stated.get("size", {})
    if not isinstance(size, Mapping):
        size = {"shortest_edge": size, "longest_edge": size}
    least = stated.get("min_pixels", size.get("shortest_edge", _MIN_PIXELS))
    most = stated.get("max_pixels", size.get("longest_edge", _MAX_PIXELS))
    patch, merge = (stated.get(name, default) for name, default in _DEFAULTS.items())
    if not all(is_int(value, 1) for value in (least, most, patch, merge)):
        raise ArtifactError(
            f"the image processor has size {size}, patch_size {patch!r}, merge_size {merge!r}",
            expected="whole numbers, and areas in pixels as shortest_edge and longest_edge",
        )
    return int(patch * merge), int(least), int(most)


def _factor(config: LayoutConfig) -> int:
    factor = config.options.get("factor")
    if type(factor) is not int or not 1 <= factor <= _MOST_FACTOR:
        raise ArtifactError(
            f"the layout has factor {factor!r}", expected=f"1 to {_MOST_FACTOR} pixels"
        )
    return factor


def _size(config: LayoutConfig, factor: int) -> tuple[int, int] | None:
    """The option ``size``, checked, as the manifest is untrusted; None where it is not given."""
    stated = config.options.get("size")
    if stated is None:
        if config.image_size is not None:
            raise ArtifactError(
                f"the vision graph reads {config.image_size} pixels, the layout any number",
                advice="export the artifact again",
            )
        return None
    height, width = config.tile_size
    tokens = (height // factor) * (width // factor)
    whole = height % factor == 0 and width % factor == 0
    small = height * width <= _MOST_PIXELS
    sound = stated in ([height, width], (height, width)) and whole and small
    if not sound or tokens != config.patches:
        raise ArtifactError(
            f"the layout makes pictures of {stated!r} pixels",
            expected=f"[{height}, {width}], which the vision graph reads, {config.patches} tokens "
            f"with edges of {factor} pixels",
            advice="export the artifact again",
        )
    return height, width


def _pixels(config: LayoutConfig, factor: int) -> tuple[int, int]:
    """The options, checked, as the manifest is untrusted."""
    least, most = (config.options.get(name) for name in ("min_pixels", "max_pixels"))
    if (
        type(least) is not int
        or type(most) is not int
        or not 1 <= least <= most <= _MOST_PIXELS
        or most < factor**2
    ):
        raise ArtifactError(
            f"the layout makes pictures of {least!r} to {most!r} pixels",
            expected=f"whole numbers, the second {factor**2} to {_MOST_PIXELS}",
        )
    return least, most
