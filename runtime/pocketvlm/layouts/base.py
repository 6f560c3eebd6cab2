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
    from pocketvlm.vision.features import VisionFeatures

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Medium = Literal["image", "video"]
_Shown = TypeVar("_Shown", contravariant=True)


@dataclass(frozen=True)
class Grid:
    """How a picture was cut: all that is asked of it once its pixels are gone.

    Attributes:
        rows, columns: of the tiles that are parts of the picture, in raster order in the batch.
        whole: where in the batch a further tile shows the whole picture, smaller; None where none
            does.
        size: (height, width) of the picture in pixels, for layouts whose slots depend on it; else
            None.
    """

    rows: int = 1
    columns: int = 1
    whole: Literal["first", "last"] | None = None
    size: tuple[int, int] | None = None

    @property
    def tiles(self) -> int:
        """Pictures in the vision graph's batch."""
        return self.rows * self.columns + (self.whole is not None)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Tiles:
    """A picture as the vision graph reads it: float32 (tiles, 3, height, width), and how it was
    cut."""

    pixel_values: Floats
    grid: Grid


@dataclass(frozen=True)
class Setting:
    """What a layout is made for, as the manifest states it.

    Attributes:
        image_size: (height, width) of a tile in pixels.
        patches: N, the tokens that the tower makes of a tile.
        image_token_id: stands in every slot of a prompt.
        options: ``vision.layout`` of the manifest, its name among them.
    """

    image_size: tuple[int, int]
    patches: int
    image_token_id: int
    options: Mapping[str, Any] = field(default_factory=dict)


class Layout(Protocol[_Shown]):
    """One way from a picture to the features in a prompt. A new one is a module here and a name in
    the registry.

    Tiles of one picture run as one batch, those of two pictures never do. Every tile keeps the same
    number of tokens, the budget, which may differ from picture to picture.

    What it cuts is an RGB image where its ``medium`` is ``"image"``. Where it is ``"video"`` that
    is a sequence of them, as many as its only grid has tiles; what is said of pictures below holds
    for clips then.

    Attributes:
        name: in the manifest.
        medium: what it is shown.
        setting: what it was made for.
    """

    name: ClassVar[str]
    medium: ClassVar[Medium]
    setting: Setting

    @property
    def recipe(self) -> str:
        """How a client in another language cuts a picture and puts the tiles' features together, as
        Markdown.

        It is to stand before the `steps`; empty where a picture is one tile.
        """

    @property
    def steps(self) -> Preprocessor:
        """What each tile goes through."""

    @classmethod
    def make(cls, setting: Setting, config: Mapping[str, Any] | None = None) -> Self:
        """Make it; ``config`` is preprocessor_config.json, without which nothing can be cut, only
        counted.

        Raises:
            PocketVLMError: options or configuration that it cannot follow.
        """

    def grids(self) -> Sequence[Grid]:
        """Every grid that pictures may be cut into, whatever their size, the one with the most
        tiles last."""

    def grid(self, height: int, width: int) -> Grid:
        """The grid of a picture of so many pixels."""

    def views(self, image: _Shown) -> npt.NDArray[np.uint8]:
        """What the tower sees of a picture before it is normalised, for people: uint8 (tiles,
        height, width, 3)."""

    def cut(self, image: _Shown) -> Tiles:
        """The tiles of a picture, as from `pocketvlm.vision.viewer.open_medium`; raises
        `PocketVLMError`."""

    def expand(self, grid: Grid, budget: int, kept: Ints | None = None) -> Ints:
        """What stands for a picture in place of its image token: int64 (n,), ``image_token_id`` in
        every slot.

        Args:
            grid: how the picture was cut.
            budget: tokens that each tile keeps.
            kept: which those are, (tiles, budget); without it a layout that drops some of them says
                the most there may be, which is what room must be made for.
        """

    def arrange(
        self, grid: Grid, features: VisionFeatures, constants: Mapping[str, Floats]
    ) -> Floats:
        """What fills those slots, in order: float32 (slots, hidden).

        Args:
            grid: how the picture was cut.
            features: of its tiles, (tiles, budget, hidden).
            constants: further outputs of the vision graph that depend on no picture, by name,
                (hidden,) each.
        """


class Prepared:
    """What layouts have in common: their setting, and the steps of a tile where they were made to
    cut."""

    def __init__(self, setting: Setting, preprocessor: Preprocessor | None) -> None:
        self.setting = setting
        self._preprocessor = preprocessor

    @property
    def steps(self) -> Preprocessor:
        """See `Layout.steps`."""
        if self._preprocessor is None:
            raise RuntimeError("this layout was made to count, not to cut")
        return self._preprocessor


def one_after_another(features: VisionFeatures) -> Floats:
    """The tokens of the first tile, then those of the next: (tiles, k, hidden) -> (tiles * k,
    hidden)."""
    tokens: Floats = features.image_features.reshape(-1, features.image_features.shape[-1])
    return tokens


def tokens_before(layout: Layout, grid: Grid) -> int:
    """Slots that a picture takes when no token is pruned."""
    patches = layout.setting.patches
    every = np.tile(np.arange(patches, dtype=np.int64), (grid.tiles, 1))
    return slot_count(layout, layout.expand(grid, patches, every))


def slot_count(layout: Layout, ids: Ints) -> int:
    """How many of the ids that stand for a picture are slots."""
    return int((ids == layout.setting.image_token_id).sum())
