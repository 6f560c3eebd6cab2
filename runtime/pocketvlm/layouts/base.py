"""Knows what a layout is: how one picture becomes the vision graph's batch, the prompt's slots and
what fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pocketvlm.media.preprocessing import Preprocessor

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Medium = Literal["image", "video"]
_Input = TypeVar("_Input", contravariant=True)


@dataclass(frozen=True)
class TokenGrid:
    """Rows and columns of the visual tokens that the tower makes of a picture or tile, before
    pruning."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.columns


@dataclass(frozen=True)
class TileGrid:
    """How a picture was cut into tiles; this is kept when its pixels no longer are.

    Attributes:
        rows, columns: of the tiles that are parts of the picture, in raster order in the batch.
        whole: where in the batch a further tile holds the whole picture, smaller; None where none
            does.
        size: (height, width) of the picture in pixels, for layouts whose slots depend on it; else
            None.
        tokens: of each tile, where resolution is dynamic and they follow from the picture; None
            where they are the same of every picture.
    """

    rows: int = 1
    columns: int = 1
    whole: Literal["first", "last"] | None = None
    size: tuple[int, int] | None = None
    tokens: TokenGrid | None = None

    @property
    def tiles(self) -> int:
        """Tiles of one picture, which is the batch of the vision graph."""
        return self.rows * self.columns + (self.whole is not None)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Tiles:
    """A picture as the vision graph reads it: float32 (tiles, 3, height, width), and how it was
    cut."""

    pixel_values: Floats
    grid: TileGrid


@dataclass(frozen=True)
class LayoutConfig:
    """The part of a manifest that a layout reads.

    Attributes:
        image_size: (height, width) of a tile in pixels.
        patches: N, the tokens that the tower makes of a tile.
        image_token_id: the token id in every slot of a prompt.
        options: ``vision.layout`` of the manifest, its name among them.
    """

    image_size: tuple[int, int]
    patches: int
    image_token_id: int
    options: Mapping[str, Any] = field(default_factory=dict)


class Layout(Protocol[_Input]):
    """One way from a picture to the features in a prompt. A new one is a module here and a name in
    the registry.

    Tiles of one picture run as one batch, those of two pictures never do. Every tile keeps the same
    number of tokens, the budget, which may differ from picture to picture.

    It cuts an RGB image where its ``medium`` is ``"image"``. Where it is ``"video"``, a picture
    below means a clip: a sequence of RGB images, as many as its only grid has tiles.

    Attributes:
        name: in the manifest.
        medium: what it cuts, pictures or clips.
        config: what it was made for.
    """

    name: ClassVar[str]
    medium: ClassVar[Medium]
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
        """Every grid that pictures may be cut into, whatever their size, the one with the most
        tiles last."""

    def grid(self, height: int, width: int) -> TileGrid:
        """The grid of a picture of so many pixels."""

    def views(self, image: _Input) -> npt.NDArray[np.uint8]:
        """The tiles before they are normalised, to look at: uint8 (tiles, height, width, 3)."""

    def cut(self, image: _Input) -> Tiles:
        """The tiles of a picture, as from `pocketvlm.vision.viewer.open_medium`; raises
        `PocketVLMError`."""

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """The token ids that replace a picture's image token: int64 (n,), ``image_token_id`` in
        every slot.

        Args:
            grid: how the picture was cut.
            budget: tokens that each tile keeps.
            kept: their patches, (tiles, budget). A layout that drops some of them gives without it
                the most ids that there may be, so that the context has room for them.
        """

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The embeddings that fill those slots, in order: float32 (slots, hidden).

        Args:
            grid: how the picture was cut.
            image_features: of its tiles, float32 (tiles, k, hidden).
            kept_indices: the patches that they are of, int64 (tiles, k).
            constants: further outputs of the vision graph that depend on no picture, by name,
                (hidden,) each.
        """


class Prepared:
    """What layouts have in common: their config, and the steps of a tile where they were made to
    cut."""

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        self.config = config
        self._preprocessor = preprocessor

    @property
    def steps(self) -> Preprocessor:
        """See `Layout.steps`."""
        if self._preprocessor is None:
            raise RuntimeError("this layout was made to count, not to cut")
        return self._preprocessor


def one_after_another(image_features: Floats) -> Floats:
    """The tokens of the first tile, then those of the next: (tiles, k, hidden) -> (tiles * k,
    hidden)."""
    tokens: Floats = image_features.reshape(-1, image_features.shape[-1])
    return tokens


def tokens_before(layout: Layout, grid: TileGrid) -> int:
    """Slots that a picture takes when no token is pruned."""
    patches = layout.config.patches
    every = np.tile(np.arange(patches, dtype=np.int64), (grid.tiles, 1))
    return slot_count(layout, layout.expand(grid, patches, every))


def slot_count(layout: Layout, ids: Ints) -> int:
    """How many of a picture's ids in the prompt are slots."""
    return int((ids == layout.config.image_token_id).sum())
