"""Knows how a picture or a clip becomes features: checked at once, encoded when an answer needs it,
at most once."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.decoders import EmbeddingSegment
from pocketvlm.errors import RequestError
from pocketvlm.layouts import Layout, Tiles, open_layout, slot_count, tokens_before
from pocketvlm.media.pictures import Picture, PictureLimits, open_picture
from pocketvlm.media.videos import Video, VideoLimits, open_video
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache, picture_key
from pocketvlm.vision.features import VisionFeatures


class Look:
    """One picture of a prompt at one budget: its pixels until it is encoded, its features from then
    on."""

    def __init__(self, layout: Layout, tiles: Tiles, budget: int) -> None:
        self.pixel_values: npt.NDArray[np.float32] | None = (
            tiles.pixel_values
        )  # (tiles, 3, height, width)
        self.grid = tiles.grid
        self.budget = budget
        self.features: VisionFeatures | None = None  # (tiles, budget, hidden)
        self._layout = layout

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """What stands for it in a prompt, int64 (n,); before it is encoded perhaps more than after,
        never less."""
        kept = None if self.features is None else self.features.kept_indices
        return self._layout.expand(self.grid, self.budget, kept)

    @property
    def slots(self) -> int:
        """Visual tokens among the ids."""
        return slot_count(self._layout, self.ids)

    @property
    def tokens_before(self) -> int:
        """Visual tokens that it would take without pruning."""
        return tokens_before(self._layout, self.grid)

    @property
    def kept_indices(self) -> list[int]:
        """The patches kept of each tile, in raster order, numbered on from tile to tile; of an
        encoded picture."""
        if self.features is None:
            raise RuntimeError("this picture has not been encoded")
        first = (
            np.arange(self.grid.tiles, dtype=np.int64) * self._layout.config.patches
        )  # of each tile
        kept: list[int] = (self.features.kept_indices + first[:, None]).ravel().tolist()
        return kept

    @functools.cached_property
    def key(self) -> str:
        """See `picture_key`; to be read before the pixels are gone."""
        if self.pixel_values is None:
            raise RuntimeError("the pixels of this picture are gone")
        return picture_key(self.pixel_values)


class Viewer:
    """The vision side of an artifact.

    Args:
        artifact: an opened artifact.
        encoder: its vision graph.
        limits: caps on pictures.
        cache: features kept between answers; read by those who ask for it.
        video_limits: caps on clips.
    """

    def __init__(
        self,
        artifact: Artifact,
        encoder: VisionEncoder,
        limits: PictureLimits | None,
        cache: FeatureCache,
        video_limits: VideoLimits | None = None,
    ) -> None:
        self.layout = open_layout(artifact)
        self._encoder = encoder
        self._limits = limits
        self._video_limits = video_limits
        self._cache = cache

    def check_budget(self, budget: int) -> int:
        """Return ``budget``; raises `PocketVLMError` where the graph does not serve it."""
        return self._encoder.check_budget(budget)

    def look(
        self, images: Sequence[Picture] | None, budget: int, videos: Sequence[Video] | None = None
    ) -> list[Look]:
        """Read and preprocess pictures, or clips; raises `PocketVLMError` for one that is refused,
        for one that is not in a list, or for the kind that the model is not shown."""
        if isinstance(images, (str, bytes, os.PathLike, Image.Image, np.ndarray)):
            raise RequestError("images is a single picture", advice="give a list of pictures")
        if isinstance(videos, (str, bytes, os.PathLike)):
            raise RequestError("videos is a single clip", advice="give a list of clips")
        self.check_budget(budget)
        check_medium(self.layout, pictures=bool(images), clips=bool(videos))
        return [Look(self.layout, self._cut(shown), budget) for shown in videos or images or []]

    def see(self, look: Look, *, cached: bool) -> EmbeddingSegment:
        """Encode the tiles of one picture: memory stays that of one, and a quantized graph's
        activation scales, taken over a whole batch, do not let one picture change another's
        features. ``cached`` ones are kept and come back."""
        if look.features is None:
            features = self._cache.get(look.key, look.grid.tiles) if cached else None
            if features is None and look.pixel_values is not None:
                features = self._encoder.encode(look.pixel_values)
                if cached:
                    self._cache.put(look.key, features)
            if features is None:
                raise RuntimeError("a picture has neither pixels nor features")
            look.features, look.pixel_values = features.narrow(look.budget), None
        # The same tiles are arranged otherwise where they were cut otherwise.
        key = f"{look.key}/{look.budget}/{look.grid}/{look.grid.size}" if cached else None
        return EmbeddingSegment(
            self.layout.arrange(
                look.grid,
                look.features.image_features,
                look.features.kept_indices,
                self._encoder.constants,
            ),
            key,
        )

    def _cut(self, medium: Picture | Video) -> Tiles:
        tiles = self.layout.cut(open_medium(self.layout, medium, self._limits, self._video_limits))
        found, expected = tiles.pixel_values.shape[2:], self.layout.config.image_size
        if found != expected:
            raise RequestError(
                (
                    f"preprocessing makes {found[0]}x{found[1]} pixels, the vision graph reads "
                    f"{expected[0]}x{expected[1]}"
                ),
                advice="export the artifact again",
            )
        return tiles


def check_medium(layout: Layout[Any], *, pictures: bool = False, clips: bool = False) -> None:
    """Raise `PocketVLMError` where pictures, or clips, are given to a model that is shown the
    other."""
    if pictures and layout.medium == "video":
        raise RequestError(
            "this artifact answers questions about clips, not pictures",
            advice="give videos (--video) instead",
        )
    if clips and layout.medium == "image":
        raise RequestError(
            "this artifact answers questions about pictures, not clips",
            advice="give images (--image) instead",
        )


def open_medium(
    layout: Layout[Any],
    medium: Any,
    limits: PictureLimits | None = None,
    video_limits: VideoLimits | None = None,
) -> Any:
    """What a layout cuts: an image of a `Picture`, or the frames of a `Video`; raises
    `PocketVLMError`."""
    if layout.medium == "image":
        return open_picture(medium, limits)
    return open_video(medium, layout.grids()[0].tiles, video_limits)
