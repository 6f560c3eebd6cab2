"""Knows how a picture becomes features: read and checked at once, encoded when an answer needs it, at most once."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.decoders import EmbeddingSegment
from pocketvlm.errors import PocketVLMError
from pocketvlm.features import FeatureCache, picture_key
from pocketvlm.pictures import Picture, PictureLimits, open_picture
from pocketvlm.preprocessing import Preprocessor
from pocketvlm.vision import VisionEncoder, VisionFeatures


class Look:
    """One picture of a prompt at one budget: its pixels until it is encoded, its features from then on."""

    def __init__(self, pixel_values: npt.NDArray[np.float32], budget: int) -> None:
        self.pixel_values: npt.NDArray[np.float32] | None = pixel_values  # (3, height, width)
        self.budget = budget
        self.features: VisionFeatures | None = None  # (1, budget, hidden)

    @property
    def kept_indices(self) -> list[int]:
        """The patches kept, in raster order; of a picture that has been encoded."""
        if self.features is None:
            raise RuntimeError("this picture has not been encoded")
        kept: list[int] = self.features.kept_indices[0].tolist()
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
    """

    def __init__(
        self, artifact: Artifact, encoder: VisionEncoder, limits: PictureLimits | None, cache: FeatureCache
    ) -> None:
        self.tokens_before = artifact.manifest.pruning.tokens_before
        self._size = artifact.manifest.vision.image_size
        self._preprocessor = Preprocessor.from_artifact(artifact)
        self._encoder = encoder
        self._limits = limits
        self._cache = cache

    def check_budget(self, budget: int) -> int:
        """See `VisionEncoder.check_budget`."""
        return self._encoder.check_budget(budget)

    def look(self, images: Sequence[Picture] | None, budget: int) -> list[Look]:
        """Read and preprocess pictures; raises `PocketVLMError` for one that is refused, or for none in a list."""
        if isinstance(images, (str, bytes, os.PathLike, Image.Image, np.ndarray)):
            raise PocketVLMError("images is a single picture: give a list of pictures")
        self.check_budget(budget)
        return [Look(self._pixels(image), budget) for image in images or []]

    def see(self, look: Look, *, cached: bool) -> EmbeddingSegment:
        """Encode a picture by itself: memory stays that of one, and a quantized graph's activation scales, taken over
        a whole batch, do not let one picture change another's features. ``cached`` ones are kept and come back."""
        if look.features is None:
            features = self._cache.get(look.key) if cached else None
            if features is None and look.pixel_values is not None:
                features = self._encoder.encode(look.pixel_values[None])
                if cached:
                    self._cache.put(look.key, features)
            if features is None:
                raise RuntimeError("a picture has neither pixels nor features")
            look.features, look.pixel_values = features.narrow(look.budget), None
        key = f"{look.key}/{look.budget}" if cached else None
        return EmbeddingSegment(look.features.image_features[0], key)

    def _pixels(self, image: Picture) -> npt.NDArray[np.float32]:
        pixels = self._preprocessor(open_picture(image, self._limits))
        if pixels.shape[1:] != self._size:
            raise PocketVLMError(
                f"preprocessing makes {pixels.shape[1]}x{pixels.shape[2]} pixels, the vision graph reads "
                f"{self._size[0]}x{self._size[1]}: export the artifact again"
            )
        return pixels
