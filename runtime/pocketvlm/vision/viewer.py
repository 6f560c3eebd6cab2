"""Knows how a picture or a clip becomes features: checked at once, encoded when an answer needs it,
at most once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.base import EmbeddingSegment
from pocketvlm.errors import ArtifactError, PictureError
from pocketvlm.layouts import (
    Layout,
    Tiles,
    layout_among,
    open_layout,
    slot_count,
    tokens_before,
    tokens_of_tile,
)
from pocketvlm.limits import Limits
from pocketvlm.media.pictures import Picture, open_picture, whole_size
from pocketvlm.media.videos import Video, open_video
from pocketvlm.vision.constants import read_constants
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache, picture_key
from pocketvlm.vision.features import VisionFeatures

Floats = npt.NDArray[np.float32]


class PictureInput:
    """One picture or clip of a prompt at one budget.

    Attributes:
        layout: what it goes through.
        pixel_values: float32 (tiles, 3, height, width), until it is encoded; None from then on.
        grid: how it was cut into tiles.
        budget: visual tokens per tile.
        reduced: whether it was read at a fraction of its size, see `PictureLimits.max_memory`.
        features: (tiles, budget, hidden), from its encoding on; None until then.
    """

    def __init__(self, layout: Layout, tiles: Tiles, budget: int, *, reduced: bool = False) -> None:
        self.pixel_values: npt.NDArray[np.float32] | None = tiles.pixel_values
        self.grid = tiles.grid
        self.budget = budget
        self.reduced = reduced
        self.features: VisionFeatures | None = None
        self.layout = layout

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Its token ids in a prompt, int64 (n,); before it is encoded perhaps more than after,
        never fewer."""
        kept = None if self.features is None else self.features.kept_indices
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
        """Whether it has fewer tokens than the budget, and so keeps them all."""
        return tokens_of_tile(self.layout, self.grid) < self.budget

    @property
    def kept_indices(self) -> list[int]:
        """The patches kept of each tile, in raster order, numbered on from tile to tile; of an
        encoded picture."""
        if self.features is None:
            raise RuntimeError("this picture has not been encoded")
        tokens = tokens_of_tile(self.layout, self.grid)
        first = np.arange(self.grid.tiles, dtype=np.int64) * tokens  # of each tile
        kept: list[int] = (self.features.kept_indices + first[:, None]).ravel().tolist()
        return kept

    @functools.cached_property
    def key(self) -> str:
        """See `picture_key`; to be read before the pixels are gone."""
        if self.pixel_values is None:
            raise RuntimeError("the pixels of this picture are gone")
        return picture_key(self.pixel_values)


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

    def among(self, pictures: int) -> PictureInput:
        """What it is in a conversation with so many pictures."""
        return self.alone if pictures == 1 else self.beside_others


class Viewer:
    """The vision side of an artifact.

    Args:
        artifact: an opened artifact.
        encoder: its vision graph.
        limits: caps on pictures and clips.
        cache: features kept between answers; read by those who ask for it.
    """

    def __init__(
        self,
        artifact: Artifact,
        encoder: VisionEncoder,
        limits: Limits,
        cache: FeatureCache,
    ) -> None:
        self.layout = open_layout(artifact)
        self.encoder = encoder
        self._limits = limits
        self._cache = cache
        self._constants = read_constants(artifact)

    def check_budget(self, budget: int) -> int:
        """Return ``budget``; raises `PocketVLMError` where the graph does not serve it."""
        return self.encoder.check_budget(budget)

    def prepare(self, media: Sequence[Picture | Video], budget: int) -> list[PictureInput]:
        """Read and preprocess the pictures of a prompt, or its clips where the model reads those;
        raises `PocketVLMError` for one that is refused, or for a budget that is not served."""
        budget, layout = self.check_budget(budget), layout_among(self.layout, len(media))
        return [self._prepare(self._open(medium), layout, budget) for medium in media]

    def prepare_conversation(
        self, media: Sequence[Picture | Video], budget: int
    ) -> list[ConversationPicture]:
        """As `prepare`, for pictures that others may join."""
        budget, both = self.check_budget(budget), (self.layout, self.layout.several)
        pictures = []
        for medium in media:
            opened = self._open(medium)
            forms = {id(each): self._prepare(opened, each, budget) for each in both}
            pictures.append(ConversationPicture(*(forms[id(each)] for each in both)))
        return pictures

    def encode(self, picture: PictureInput, *, cached: bool) -> EmbeddingSegment:
        """The features of one picture, as what fills its slots.

        The tiles of one picture are encoded together and never with those of another: memory stays
        that of one, and a quantized graph's activation scales, taken over a whole batch, do not let
        one picture change another's features. Features that are ``cached`` come from the feature
        cache and go there. One thread at a time may call this.
        """
        grid, layout = picture.grid, picture.layout
        if picture.features is None:
            tokens = tokens_of_tile(layout, grid)
            features = self._cache.get(picture.key, grid.tiles, tokens) if cached else None
            if features is None and picture.pixel_values is not None:
                features = self.encoder.encode(picture.pixel_values, tokens)
                if cached:
                    self._cache.put(picture.key, features)
            if features is None:
                raise RuntimeError("a picture has neither pixels nor features")
            picture.features, picture.pixel_values = features.narrow(picture.budget), None
        # The same tiles are arranged otherwise where they were cut otherwise.
        arrangement = f"{layout.name}/{grid}/{grid.size}"
        key = f"{picture.key}/{picture.budget}/{arrangement}" if cached else None
        features, one_grid = picture.features, layout.one_grid
        # What comes between features has no further ones.
        nothing = {name: np.zeros_like(value) for name, value in self._constants.items()}
        return EmbeddingSegment(
            self._arranged(picture, features.image_features, self._constants),
            key,
            grid=layout.token_grid(grid) if one_grid else None,
            kept=features.kept_indices[0] if one_grid else None,
            extras={
                name: self._arranged(picture, extra, nothing)
                for name, extra in features.extras.items()
            },
        )

    def _arranged(
        self, picture: PictureInput, features: Floats, constants: Mapping[str, Floats]
    ) -> Floats:
        """(tiles, k, hidden) of an encoded picture as what fills its slots."""
        assert picture.features is not None
        return picture.layout.arrange(
            picture.grid, features, picture.features.kept_indices, constants
        )

    def _open(self, medium: Picture | Video) -> Any:
        return open_medium(self.layout, medium, self._limits)

    def _prepare(self, upright: Any, layout: Layout[Any], budget: int) -> PictureInput:
        images = [upright] if layout.medium == "image" else upright
        reduced = any(whole_size(image) is not None for image in images)
        return PictureInput(layout, self._cut(upright, layout), budget, reduced=reduced)

    def _cut(self, upright: Any, layout: Layout[Any]) -> Tiles:
        try:
            tiles = layout.cut(upright)
        except MemoryError as error:
            raise PictureError(
                "there is not enough memory to cut a picture into tiles",
                advice="lower max_pixels or max_tiles",
            ) from error
        size, expected = tiles.pixel_values.shape[2:], layout.config.image_size
        if expected is not None and size != expected:
            raise ArtifactError(
                (
                    f"preprocessing makes {size[0]}x{size[1]} pixels, the vision graph reads "
                    f"{expected[0]}x{expected[1]}"
                ),
                advice="export the artifact again",
            )
        return tiles


def open_medium(
    layout: Layout[Any],
    medium: Any,
    limits: Limits | None = None,
) -> Any:
    """What a layout cuts: an image of a `Picture`, or the frames of a `Video`; raises
    `PocketVLMError`."""
    limits = limits or Limits()
    if layout.medium == "image":
        return open_picture(medium, limits.pictures)
    return open_video(medium, layout.grids()[0].tiles, limits.videos)
