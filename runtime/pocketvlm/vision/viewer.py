"""Knows how a picture or a clip becomes features: checked at once, encoded when an answer needs it,
at most once."""

from __future__ import annotations

import copy
import functools
import hashlib
import time
from collections import Counter
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
    Medium,
    Tiles,
    budget_beside,
    layout_among,
    open_layout,
    slot_count,
    tokens_before,
    tokens_of_tile,
    tokens_of_tiles,
)
from pocketvlm.limits import Limits
from pocketvlm.media.pictures import Picture, open_picture, whole_size
from pocketvlm.media.videos import Video, open_video
from pocketvlm.vision.batches import arrange_features, kept_patches
from pocketvlm.vision.constants import read_constants
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache, picture_key
from pocketvlm.vision.features import VisionFeatures

Floats = npt.NDArray[np.float32]


class PictureInput:
    """One picture or clip of a prompt at one budget.

    Attributes:
        layout: what it goes through.
        tiles: its pixels, until it is encoded; None from then on.
        grid: how it was cut into tiles.
        budget: visual tokens per tile.
        reduced: whether it was read at a fraction of its size, see `PictureLimits.max_memory`.
        features: of each of its `TileGrid.batches`, (tiles, budget, hidden), from its encoding on;
            None until then.
        last_kept: the patches kept of each tile for the question before, where each question
            selects anew; None before the first.
        select_ms: of its encoding, milliseconds that selecting by the question took.
    """

    def __init__(self, layout: Layout, tiles: Tiles, budget: int, *, reduced: bool = False) -> None:
        self.tiles: Tiles | None = tiles
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
        """The same picture for a further question that selects anew, not encoded yet. This one
        keeps its pixels, which take less memory than the features of all its tokens would: those
        are in the feature cache, for as long as there is room."""
        _ = self.key  # computed once for all questions
        return copy.copy(self)

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """See `picture_key`, of each of its batches; to be read before the pixels are gone."""
        if self.tiles is None:
            raise RuntimeError("the pixels of this picture are gone")
        return tuple(map(picture_key, self.tiles.batches))

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


class Viewer:
    """The vision side of an artifact.

    Args:
        artifact: an opened artifact.
        encoder: its vision graph.
        limits: caps on pictures and clips.
        cache: features kept between answers; read by those who ask for it.
        beside: the vision sides of further media that it reads, see `Artifact.reading`.
    """

    def __init__(
        self,
        artifact: Artifact,
        encoder: VisionEncoder,
        limits: Limits,
        cache: FeatureCache,
        beside: Sequence[Viewer] = (),
    ) -> None:
        self.layout = open_layout(artifact)
        self.encoder = encoder
        self._limits = limits
        self._cache = cache
        self._constants = read_constants(artifact)
        self._viewers = {viewer.layout.medium: viewer for viewer in (self, *beside)}

    def check_budget(self, budget: int) -> int:
        """Return ``budget``; raises `PocketVLMError` where the graph does not serve it."""
        return self.encoder.check_budget(budget)

    @property
    def layouts(self) -> Mapping[Medium, Layout]:
        """The layout of each medium that the model reads."""
        return {medium: viewer.layout for medium, viewer in self._viewers.items()}

    def prepare(
        self,
        media: Sequence[Picture | Video],
        budget: int,
        kinds: Sequence[Medium] | None = None,
    ) -> list[PictureInput]:
        """Read and preprocess pictures, or clips where the model reads those.

        Args:
            media: pictures and clips.
            budget: visual tokens per tile or frame of what this reads first; for others see
                `pocketvlm.layouts.budget_beside`.
            kinds: which of both each of ``media`` is; None where all are what this reads first.

        Raises:
            PocketVLMError: one is refused, or a budget that is not served.
        """
        budget = self.check_budget(budget)
        each = [self.layout.medium] * len(media) if kinds is None else kinds
        numbers = Counter(each)
        return [
            self._viewers[kind]._prepared(medium, self._budget_of(kind, budget), numbers[kind])
            for medium, kind in zip(media, each, strict=True)
        ]

    def prepare_conversation(
        self,
        media: Sequence[Picture | Video],
        budget: int,
        kinds: Sequence[Medium] | None = None,
    ) -> list[ConversationPicture]:
        """As `prepare`, for pictures that others may join."""
        budget = self.check_budget(budget)
        each = [self.layout.medium] * len(media) if kinds is None else kinds
        return [
            self._viewers[kind]._prepared_twice(medium, self._budget_of(kind, budget))
            for medium, kind in zip(media, each, strict=True)
        ]

    def _prepared(self, medium: Picture | Video, budget: int, pictures: int) -> PictureInput:
        """One of so many of its kind."""
        return self._prepare(self._open(medium), layout_among(self.layout, pictures), budget)

    def _prepared_twice(self, medium: Picture | Video, budget: int) -> ConversationPicture:
        opened, both = self._open(medium), (self.layout, self.layout.several)
        forms = {id(each): self._prepare(opened, each, budget) for each in both}
        return ConversationPicture(*(forms[id(each)] for each in both))

    def _budget_of(self, medium: Medium, budget: int) -> int:
        other = self._viewers[medium]
        if other is self:
            return budget
        own, others = self.layout.config.patches, other.layout.config.patches
        return other.check_budget(budget_beside(budget, own, others))

    @property
    def reads_prompt(self) -> bool:
        """Whether what is kept of a picture depends on the question."""
        return any(viewer.encoder.reads_prompt for viewer in self._viewers.values())

    def selects_anew(self, picture: PictureInput) -> bool:
        """Whether each question keeps tokens of its own of a picture."""
        return self._viewers[picture.layout.medium].encoder.reads_prompt

    def encode(
        self,
        picture: PictureInput,
        *,
        cached: bool,
        question: npt.NDArray[np.int64] | None = None,
    ) -> EmbeddingSegment:
        """The features of one picture, as what fills its slots; see `_encode`.

        ``question`` has the token ids int64 (T,) of the user's text, see `VisionEncoder.select`.
        """
        viewer = self._viewers[picture.layout.medium]
        return viewer._encode(picture, cached=cached, question=question)

    def _encode(
        self,
        picture: PictureInput,
        *,
        cached: bool,
        question: npt.NDArray[np.int64] | None = None,
    ) -> EmbeddingSegment:
        """As `encode`, of a picture that this one prepared.

        The tiles of one picture and size are encoded together and never with those of another:
        memory stays that of one, and a quantized graph's activation scales, taken over a whole
        batch, do not let one picture change another's features. Features that are ``cached`` come
        from the feature cache and go there; where the method reads the prompt those are of all
        tokens, and which of them are kept is no part of the cache. One thread at a time may call
        this.
        """
        grid, layout = picture.grid, picture.layout
        if picture.features is None:
            if picture.tiles is None:
                raise RuntimeError("a picture has neither pixels nor features")
            batches = zip(picture.tiles.batches, grid.batches, strict=True)
            keys = picture.keys if cached else (None,) * len(grid.batches)
            selected, picture.select_ms = [], 0.0
            for (pixels, batch), key in zip(batches, keys, strict=True):
                encoded = self._features_of(pixels, tokens_of_tile(layout, batch), key)
                started = time.perf_counter()
                selected.append(self.encoder.select(encoded, question).narrow(picture.budget))
                picture.select_ms += (time.perf_counter() - started) * 1e3
            picture.features, picture.tiles = tuple(selected), None
        # The same tiles are arranged otherwise where they were cut otherwise.
        # A frame may have the pixels of a picture, and goes through another tower.
        where = f"{picture.budget}/{layout.name}/{grid}/{grid.size}/{layout.medium}"
        if self.encoder.reads_prompt:  # of another question other tokens may be kept
            kept = b"".join(each.kept_indices.tobytes() for each in picture.features)
            where += f"/{hashlib.sha256(kept).hexdigest()}"
        key = f"{picture.key}/{where}" if cached else None
        features, extras = arrange_features(layout, grid, picture.features, self._constants)
        one_grid = layout.one_grid
        return EmbeddingSegment(
            features,
            key,
            grid=layout.token_grid(grid) if one_grid else None,
            kept=picture.features[0].kept_indices[0] if one_grid else None,
            extras=extras,
        )

    def _features_of(self, pixels: Floats, tokens: int, key: str | None) -> VisionFeatures:
        """The features of tiles of one size, of so many ``tokens`` each, at the whole budget of the
        graph: those cached under ``key``, else new ones, which are kept there."""
        features = None if key is None else self._cache.get(key, len(pixels), tokens)
        if features is None:
            features = self.encoder.encode(pixels, tokens)
            if key is not None:
                self._cache.put(key, features)
        return features

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
