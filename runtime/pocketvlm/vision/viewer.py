"""Knows how a picture or a clip becomes features: checked at once, encoded when an answer needs it,
at most once."""

from __future__ import annotations

import functools
import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
    tokens_of_tile,
)
from pocketvlm.limits import Limits
from pocketvlm.media.pictures import (
    Picture,
    PictureFile,
    open_picture,
    read_picture,
    whole_size,
)
from pocketvlm.media.videos import Video, open_video
from pocketvlm.vision.batches import arrange_features
from pocketvlm.vision.constants import read_constants
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache
from pocketvlm.vision.features import VisionFeatures
from pocketvlm.vision.picture_input import ConversationPicture as ConversationPicture
from pocketvlm.vision.picture_input import PictureInput as PictureInput
from pocketvlm.vision.seen import SeenPictures


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
        self._seen = SeenPictures()
        self._viewers = {viewer.layout.medium: viewer for viewer in (self, *beside)}

    def close(self) -> None:
        """Free the vision graphs, see `VisionEncoder.close`."""
        for viewer in self._viewers.values():
            viewer.encoder.close()

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
        source = self._read(medium)
        return self._prepare(source, layout_among(self.layout, pictures), budget)

    def _prepared_twice(self, medium: Picture | Video, budget: int) -> ConversationPicture:
        source, both = self._read(medium), (self.layout, self.layout.several)
        forms = {id(each): self._prepare(source, each, budget) for each in both}
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

        The tiles of one picture and size are encoded together and never with those of another. So
        memory stays that of one picture. A quantized graph's activation scales, taken over a whole
        batch, do not let one picture change another's features. Features that are ``cached`` come
        from the feature cache and go there. If the method reads the prompt, those are of all
        tokens, and the selection is not part of the cache. One thread at a time may call this.
        """
        grid, layout = picture.grid, picture.layout
        selected = picture.features
        if selected is None:
            selected = self._selected(picture, cached, question)
            if cached and picture.identity is not None:
                alone = layout is self.layout
                self._seen.note(picture.identity, layout, picture.seen, alone=alone)
            picture.encoded_as(selected)
        # The same tiles are arranged otherwise where they were cut otherwise.
        # A frame may have the pixels of a picture, and goes through another tower.
        where = f"{picture.budget}/{layout.name}/{grid}/{grid.size}/{layout.medium}"
        if self.encoder.reads_prompt:  # of another question other tokens may be kept
            kept = b"".join(each.kept_indices.tobytes() for each in selected)
            where += f"/{hashlib.sha256(kept).hexdigest()}"
        key = f"{picture.key}/{where}" if cached else None
        features, extras = arrange_features(layout, grid, selected, self._constants)
        one_grid = layout.one_grid
        return EmbeddingSegment(
            features,
            key,
            grid=layout.token_grid(grid) if one_grid else None,
            kept=selected[0].kept_indices[0] if one_grid else None,
            extras=extras,
        )

    def _selected(
        self, picture: PictureInput, cached: bool, question: npt.NDArray[np.int64] | None
    ) -> tuple[VisionFeatures, ...]:
        """What is kept of each of a picture's batches."""
        keys = picture.keys if cached else (None,) * len(picture.grid.batches)
        selected, picture.select_ms = [], 0.0
        for number, key in enumerate(keys):
            encoded = self._features_of(picture, number, key)
            started = time.perf_counter()
            selected.append(self.encoder.select(encoded, question).narrow(picture.budget))
            picture.select_ms += (time.perf_counter() - started) * 1e3
        return tuple(selected)

    def _features_of(self, picture: PictureInput, batch: int, key: str | None) -> VisionFeatures:
        """The features of one of a picture's batches at the whole budget of the graph: those cached
        under ``key``, else new ones, which are kept there."""
        grid = picture.grid.batches[batch]
        tokens = tokens_of_tile(picture.layout, grid)
        features = None if key is None else self._cache.get(key, grid.tiles, tokens)
        if features is None:
            features = self.encoder.encode(picture.pixels_of(batch), tokens)
            if key is not None:
                self._cache.put(key, features)
        return features

    def _read(self, medium: Picture | Video) -> _Source:
        return _Source(self.layout, medium, self._limits)

    def _prepare(self, source: _Source, layout: Layout[Any], budget: int) -> PictureInput:
        identity = source.identity
        seen = (
            None
            if identity is None
            else self._seen.get(identity, layout, alone=layout is self.layout)
        )
        if seen is not None and self._cache.holds(seen.keys):
            return PictureInput(
                layout,
                seen,
                budget,
                reduced=seen.reduced,
                identity=identity,
                recut=lambda: self._cut(source.upright, layout),
            )
        images = [source.upright] if layout.medium == "image" else source.upright
        reduced = any(whole_size(image) is not None for image in images)
        tiles = self._cut(source.upright, layout)
        return PictureInput(layout, tiles, budget, reduced=reduced, identity=identity)

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


class _Source:
    """A picture or clip as it was given. The file of a picture is read at once, and decoded when it
    has to be.

    Attributes:
        identity: SHA-256 (hex) of a picture's file; None where it is none.
    """

    def __init__(self, layout: Layout[Any], medium: Any, limits: Limits) -> None:
        is_picture = layout.medium == "image"
        self._medium = read_picture(medium, limits.pictures) if is_picture else medium
        self._layout, self._limits = layout, limits
        file = self._medium
        self.identity = file.digest if isinstance(file, PictureFile) else None

    @functools.cached_property
    def upright(self) -> Any:
        """See `open_medium`."""
        return open_medium(self._layout, self._medium, self._limits)


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
