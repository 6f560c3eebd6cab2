"""The layout of LLaVA 1.5: the whole picture is the only tile, its kept tokens in raster order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from pocketvlm.layouts.base import LayoutConfig, suffixed
from pocketvlm.layouts.grids import Floats, Ints, TileGrid
from pocketvlm.layouts.one_tile import OneTile
from pocketvlm.media.preprocessing import Preprocessor

_LLAVA = suffixed("LlavaImageProcessor")  # CLIP's steps; these can pad to a square first
# These cut nothing off, whatever is stated.
_WHOLE = suffixed("Gemma3ImageProcessor")


class Single(OneTile):
    """See `pocketvlm.layouts.base.Layout`."""

    name: ClassVar[str] = "single"
    processors: ClassVar[tuple[str, ...]] = (
        *_WHOLE,
        *suffixed("SiglipImageProcessor"),
        *suffixed("CLIPImageProcessor"),
        "CLIPFeatureExtractor",
        *suffixed("BitImageProcessor"),
        *suffixed("LlavaOnevisionImageProcessor"),
        *_LLAVA,
        "VideoLlavaImageProcessor",
    )
    one_grid: ClassVar[bool] = True

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        preprocessor = tile_steps(processor_config)
        preprocessor.check_size(config.tile_size)
        return cls(config, preprocessor)

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token."""
        return np.full(budget, self.config.image_token_id, dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The features of the only tile, in their order."""
        return image_features[0]


def tile_steps(processor_config: Mapping[str, Any]) -> Preprocessor:
    """The preprocessing of a picture, as its image processor's configuration states it; raises
    `ArtifactError` where it cannot be followed."""
    return Preprocessor.from_config(
        processor_config, Single.processors, padding=_LLAVA, whole=_WHOLE
    )
