"""Knows what a layout is: how one picture becomes the vision graph's batch, the prompt's slots and
what fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles, TokenGrid, grid_of
from pocketvlm.limits import whole

if TYPE_CHECKING:
    from pocketvlm.media.preprocessing import Preprocessor

Views = npt.NDArray[np.uint8] | list[npt.NDArray[np.uint8]]
Medium = Literal["image", "video"]
MEDIA: tuple[Medium, ...] = ("image", "video")
_Input = TypeVar("_Input", contravariant=True)


@dataclass(frozen=True)
class LayoutConfig:
    """The part of a manifest that a layout reads.

    Attributes:
        image_size: (height, width) of a tile in pixels; None where resolution is dynamic.
        patches: N, the tokens that the tower makes of a tile; with dynamic resolution those of the
            largest.
        image_token_id: the token id in every slot of a prompt.
        options: ``vision.layout`` of the manifest, its name among them.
    """

    image_size: tuple[int, int] | None
    patches: int
    image_token_id: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tile_size(self) -> tuple[int, int]:
        """``image_size``, for layouts whose tiles have one; raises `ArtifactError` where there is
        none."""
        if self.image_size is None:
            raise ArtifactError(
                f"the manifest states no image size for the layout {self.options.get('name')}",
                advice="export the artifact again",
            )
        return self.image_size


class Layout(Protocol[_Input]):
    """One way from a picture to the features in a prompt. A new one is a module here and a name in
    the registry.

    Tiles of one picture and one size run as one batch, those of two pictures never do. Every tile
    keeps the same number of tokens, the budget, which may differ from picture to picture; one that
    has fewer keeps them all.

    It cuts an RGB image where its ``medium`` is ``"image"``. Where it is ``"video"``, a picture
    below means a clip: a sequence of RGB images, as many as its only grid has tiles.

    Attributes:
        name: in the manifest.
        medium: what it cuts, pictures or clips.
        processors: the kinds of image processor whose steps it follows, by transformers' names over
            the years.
        constants: what `arrange` reads beside features, by the names of the manifest.
        one_grid: the decoder reads the tokens of a picture as one grid, in raster order.
        config: what it was made for.
    """

    name: ClassVar[str]
    medium: ClassVar[Medium]
    processors: ClassVar[tuple[str, ...]]
    constants: ClassVar[tuple[str, ...]]
    one_grid: ClassVar[bool]
    config: LayoutConfig

    @property
    def recipe(self) -> str:
        """How a client in another language cuts a picture and puts the tiles' features together, as
        Markdown.

        It comes before the `steps`; empty where a picture is one tile.
        """

    @property
    def steps(self) -> Preprocessor:
        """The preprocessing of each tile."""

    @property
    def summary(self) -> str:
        """What it makes of a picture or clip, in a few words for people."""

    @property
    def unit(self) -> str:
        """What a budget is of: a ``"picture"``, one of its tiles, or a frame."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """What a client in another language must know to follow this layout, beside its options and
        the `steps`: plain values, by names that only this layout gives a meaning."""

    @property
    def caps(self) -> Mapping[str, int]:
        """The limits that `capped` may lower, ``max_pixels`` and ``max_tiles``, and what they
        are."""

    @property
    def least_caps(self) -> Mapping[str, int]:
        """The smallest value of each of them; 1 of one that is not listed."""

    @property
    def several(self) -> Layout[_Input]:
        """What each picture goes through where a prompt, or a conversation, has several: the layout
        itself, unless a picture alone is arranged otherwise."""

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """Make the layout that ``config`` describes.

        Args:
            config: what it is for.
            processor_config: preprocessor_config.json; without it the layout counts slots and
                cannot cut.

        Raises:
            PocketVLMError: options or configuration that it cannot follow.
        """

    def grids(self) -> Sequence[TileGrid]:
        """Every grid that pictures of any size may be cut into, the one with the most tiles last.
        With dynamic resolution that of the largest picture alone."""

    def largest_size(self) -> tuple[int, int]:
        """(height, width) in pixels of a picture that takes the most tiles, or tokens, and is not
        resized."""

    def grid(self, height: int, width: int) -> TileGrid:
        """The grid of a picture of so many pixels; raises `PictureError` for one that is too
        narrow."""

    def token_grid(self, grid: TileGrid) -> TokenGrid:
        """Rows and columns of the tokens of each tile before pruning; a single row where they are
        not a grid."""

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """The same layout for smaller pictures, or fewer tiles per picture, than it was made for.

        Args:
            max_pixels: height times width of what the vision graph reads of a picture at most; None
                leaves the layout's own.
            max_tiles: parts that a picture is cut into at most, a further tile of the whole not
                counted; None leaves the layout's own.

        Raises:
            RequestError: more than the layout's own, or a limit that it does not have.
        """

    def views(self, image: _Input) -> Views:
        """The tiles before they are normalised, to look at: uint8 (tiles, height, width, 3), a list
        of them where they have several sizes."""

    def cut(self, image: _Input) -> Tiles:
        """The tiles of a picture, as from `pocketvlm.vision.viewer.open_medium`; raises
        `PocketVLMError`."""

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """The token ids that replace a picture's image token: int64 (n,), ``image_token_id`` in
        every slot.

        Args:
            grid: how the picture was cut.
            budget: tokens that each tile keeps.
            kept: their patches, (tiles, budget); None where tiles have several sizes. A layout that
                drops some of them gives without it the most ids that there may be, so that the
                context has room for them.
        """

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The embeddings that fill those slots, in order: float32 (slots, hidden). Where tiles have
        several sizes, those of one of the grid's batches, which follow one another.

        Args:
            grid: how the picture was cut, or one of the `TileGrid.batches` of that.
            image_features: of its tiles, float32 (tiles, k, hidden).
            kept_indices: the patches that they are of, int64 (tiles, k).
            constants: what no picture changes, by name, (hidden,) each.
        """


class Prepared:
    """What layouts have in common: their config, and the steps of a tile where they were made to
    cut.

    The defaults here fit most layouts: no constants, several tiles, no smaller limits.
    """

    name: ClassVar[str]
    medium: ClassVar[Medium] = "image"
    processors: ClassVar[tuple[str, ...]]
    constants: ClassVar[tuple[str, ...]] = ()
    one_grid: ClassVar[bool] = False

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        self.config = config
        self._preprocessor = preprocessor

    @property
    def steps(self) -> Preprocessor:
        """See `Layout.steps`."""
        if self._preprocessor is None:
            raise RuntimeError("this layout was made to count, not to cut")
        return self._preprocessor

    def grids(self) -> Sequence[TileGrid]:
        """See `Layout.grids`."""
        raise NotImplementedError

    def largest_size(self) -> tuple[int, int]:
        """See `Layout.largest_size`."""
        (height, width), largest = self.config.tile_size, self.grids()[-1]
        return height * largest.rows, width * largest.columns

    @property
    def summary(self) -> str:
        """See `Layout.summary`."""
        height, width = self.config.tile_size
        size, most = f"{width}x{height} pixels", self.grids()[-1].tiles
        if most == 1:
            return size
        return f"{size} per tile, at most {most} tiles, layout {self.name}"

    @property
    def unit(self) -> str:
        """See `Layout.unit`."""
        return "tile" if self.grids()[-1].tiles > 1 else "picture"

    @property
    def figures(self) -> Mapping[str, Any]:
        """See `Layout.figures`."""
        return {}

    @property
    def several(self) -> Any:
        """See `Layout.several`; most layouts arrange every picture as if it were alone."""
        return self

    @property
    def caps(self) -> Mapping[str, int]:
        """See `Layout.caps`."""
        return {}

    @property
    def least_caps(self) -> Mapping[str, int]:
        """See `Layout.least_caps`."""
        return {}

    def token_grid(self, grid: TileGrid) -> TokenGrid:
        """See `Layout.token_grid`."""
        if grid.tokens is not None:
            return grid.tokens
        height, width = self.config.tile_size
        return grid_of(height, width, self.config.patches)

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """Refuses either; see `Layout.capped`."""
        if max_pixels is not None:
            raise no_cap(self.name, "max_pixels", "all of its tiles have one size")
        if max_tiles is not None:
            raise no_cap(self.name, "max_tiles", "it does not choose among numbers of tiles")
        return self


def layout_among(layout: Layout[_Input], pictures: int) -> Layout[_Input]:
    """What each picture of a prompt with so many ``pictures`` goes through, see
    `Layout.several`."""
    return layout if pictures == 1 else layout.several


def caps_within(
    layout: Layout[Any], *, max_pixels: int | None = None, max_tiles: int | None = None
) -> dict[str, int | None]:
    """Limits for a device, as far as a layout has them. A smaller one of its own is kept, and so is
    the smallest that it allows; one that it does not have is None."""
    limits = {"max_pixels": max_pixels, "max_tiles": max_tiles}
    return {
        name: None
        if value is None or name not in layout.caps
        else max(layout.least_caps.get(name, 1), min(value, layout.caps[name]))
        for name, value in limits.items()
    }


def no_cap(layout: str, setting: str, reason: str) -> RequestError:
    """The refusal of a limit that a layout does not have."""
    return RequestError(
        f"{setting} is nothing that the layout {layout} has, as {reason}",
        advice="leave it out",
        setting=setting,
    )


def check_cap(given: int, own: int, setting: str, least: int = 1) -> int:
    """Return a limit that is no more than the artifact's ``own``; raises `RequestError` for any
    other, or one below ``least``."""
    given = whole(given, setting)
    if not least <= given <= own:
        raise RequestError(
            f"{setting} {given}",
            expected=f"{least}..{own}, which the artifact was exported for",
            setting=setting,
        )
    return given


def suffixed(*names: str) -> tuple[str, ...]:
    """Image processors by their names over the years: plain, and by what they compute with."""
    return tuple(name + suffix for name in names for suffix in ("", "Pil", "Fast"))


def one_after_another(image_features: Floats) -> Floats:
    """The tokens of the first tile, then those of the next: (tiles, k, hidden) -> (tiles * k,
    hidden)."""
    tokens: Floats = image_features.reshape(-1, image_features.shape[-1])
    return tokens


def tokens_before(layout: Layout, grid: TileGrid) -> int:
    """Slots that a picture takes when no token is pruned."""
    patches = max(tokens_of_tiles(layout, grid))
    if len(grid.batches) > 1:
        return slot_count(layout, layout.expand(grid, patches))
    every = np.tile(np.arange(patches, dtype=np.int64), (grid.tiles, 1))
    return slot_count(layout, layout.expand(grid, patches, every))


def tokens_of_tile(layout: Layout, grid: TileGrid) -> int:
    """N, the tokens of each tile of a picture before pruning; of its parts, where the whole has
    another size."""
    return layout.config.patches if grid.tokens is None else grid.tokens.tokens


def tokens_of_tiles(layout: Layout, grid: TileGrid) -> list[int]:
    """As `tokens_of_tile`, of each tile of a picture in the order of the prompt."""
    return [tokens_of_tile(layout, batch) for batch in grid.batches for _ in range(batch.tiles)]


def budget_beside(budget: int, own: int, other: int) -> int:
    """The tokens that a tile of another medium keeps if those of an artifact's first keep
    ``budget`` of ``own``: as many, at most ``other``, and all of them if all are kept."""
    return other if budget == own else min(budget, other)


def slot_count(layout: Layout, ids: Ints) -> int:
    """How many of a picture's ids in the prompt are slots."""
    return int((ids == layout.config.image_token_id).sum())
