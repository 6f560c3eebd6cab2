"""Knows a picture of a prompt: its pixels until it is encoded, its features from then on, and what
its tokens are in the prompt."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketvlm.layouts import (
    Layout,
    Medium,
    Tiles,
    slot_count,
    tokens_before,
    tokens_of_tiles,
)
from pocketvlm.vision.batches import kept_patches
from pocketvlm.vision.feature_cache import picture_key
from pocketvlm.vision.features import VisionFeatures
from pocketvlm.vision.seen import SeenPicture

Floats = npt.NDArray[np.float32]


class PictureInput:
    """One picture or clip of a prompt at one budget.

    Attributes:
        layout: what it goes through.
        tiles: its pixels, until it is encoded; None from then on, and of one that was encoded
            before, whose features are kept.
        grid: how it was cut into tiles.
        budget: visual tokens per tile.
        reduced: whether it was read at a fraction of its size, see `PictureLimits.max_memory`.
        features: of each of its `TileGrid.batches`, (tiles, budget, hidden), from its encoding on;
            None until then.
        last_kept: the patches kept of each tile for the question before, where each question
            selects again; None before the first.
        select_ms: of its encoding, milliseconds that selecting by the question took.
        identity: SHA-256 (hex) of its file, where it came as one.
    """

    def __init__(
        self,
        layout: Layout,
        tiles: Tiles | SeenPicture,
        budget: int,
        *,
        reduced: bool = False,
        identity: str | None = None,
        recut: Callable[[], Tiles] | None = None,
    ) -> None:
        """``recut`` makes the pixels of a `SeenPicture`, should its features be gone."""
        seen = isinstance(tiles, SeenPicture)
        self.tiles: Tiles | None = None if isinstance(tiles, SeenPicture) else tiles
        self._keys = tiles.keys if isinstance(tiles, SeenPicture) else None
        self._recut = recut if seen else None
        self.identity = identity
        self.grid = tiles.grid
        self.budget = budget
        self.reduced = reduced
        self.features: tuple[VisionFeatures, ...] | None = None
        self.last_kept: tuple[npt.NDArray[np.int64], ...] | None = None
        self.select_ms = 0.0
        self.layout = layout

    @property
    def pixel_values(self) -> Floats | None:
        """float32 (tiles, 3, height, width) of its first batch, until it is encoded; None from then
        on."""
        return None if self.tiles is None else self.tiles.pixel_values

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Its token ids in a prompt, int64 (n,); before it is encoded perhaps more than after,
        never fewer."""
        kept = None
        if self.features is not None and len(self.features) == 1:
            kept = self.features[0].kept_indices
        return self.layout.expand(self.grid, self.budget, kept)

    @property
    def slots(self) -> int:
        """Visual tokens among the ids."""
        return slot_count(self.layout, self.ids)

    @property
    def tokens_before(self) -> int:
        """Visual tokens that it would take without pruning."""
        return tokens_before(self.layout, self.grid)

    @property
    def below_budget(self) -> bool:
        """Whether each of its tiles has fewer tokens than the budget, and so it keeps them all."""
        return max(tokens_of_tiles(self.layout, self.grid)) < self.budget

    @property
    def kept_indices(self) -> list[int]:
        """The patches kept of each tile, in raster order, numbered on from tile to tile; of an
        encoded picture."""
        if self.features is None:
            raise RuntimeError("this picture has not been encoded")
        return kept_patches(self.layout, self.grid, self.features)

    def afresh(self) -> PictureInput:
        """The same picture for a further question that selects again, not encoded yet. This one
        keeps its pixels, which take less memory than the features of all its tokens would: those
        are in the feature cache, for as long as there is room."""
        _ = self.key  # computed once for all questions
        return copy.copy(self)

    @property
    def keys(self) -> tuple[str, ...]:
        """See `picture_key`, of each of its batches; to be read before the pixels are gone."""
        if self._keys is None:
            if self.tiles is None:
                raise RuntimeError("the pixels of this picture are gone")
            self._keys = tuple(map(picture_key, self.tiles.batches))
        return self._keys

    def pixels_of(self, batch: int) -> Floats:
        """The pixels of one of its batches, float32 (tiles, 3, height, width)."""
        if self.tiles is None and self._recut is not None:
            self.tiles = self._recut()
        if self.tiles is None:
            raise RuntimeError("a picture has neither pixels nor features")
        return self.tiles.batches[batch]

    @property
    def seen(self) -> SeenPicture:
        """What is remembered of it."""
        return SeenPicture(self.grid, self.keys, self.reduced)

    def encoded_as(self, features: tuple[VisionFeatures, ...]) -> None:
        """Take its features, and let go of its pixels."""
        self.features, self.tiles, self._recut = features, None, None

    @property
    def key(self) -> str:
        """Of all that is seen of it."""
        return "/".join(self.keys)


@dataclass(frozen=True)
class ConversationPicture:
    """A picture of a conversation in each form that it takes there, see `Layout.several`.

    Which one it is changes as pictures join the conversation and leave it.

    Attributes:
        alone: as the only picture of the conversation.
        beside_others: as one of several; for most layouts the same object.
    """

    alone: PictureInput
    beside_others: PictureInput

    @property
    def medium(self) -> Medium:
        """What it is."""
        return self.alone.layout.medium

    def among(self, pictures: int) -> PictureInput:
        """What it is in a conversation with so many pictures."""
        return self.alone if pictures == 1 else self.beside_others
