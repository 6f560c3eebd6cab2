"""The layout of LLaVA 1.5: the whole picture is the only tile, its kept tokens in raster order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.layouts.base import Floats, Grid, Ints, Medium, Prepared, Setting, Tiles
from pocketvlm.media.preprocessing import Preprocessor

if TYPE_CHECKING:
    from pocketvlm.vision.features import VisionFeatures


class Single(Prepared):
    """See `pocketvlm.layouts.base.Layout`."""

    name: ClassVar[str] = "single"
    medium: ClassVar[Medium] = "image"

    @classmethod
    def make(cls, setting: Setting, config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if config is None:
            return cls(setting, None)
        preprocessor = Preprocessor.from_config(config)
        preprocessor.check_size(setting.image_size)
        return cls(setting, preprocessor)

    @property
    def recipe(self) -> str:
        """None is needed."""
        return ""

    def grids(self) -> Sequence[Grid]:
        """One tile."""
        return [Grid()]

    def grid(self, height: int, width: int) -> Grid:
        """The same for every picture."""
        return Grid()

    def views(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The picture as resized and cropped."""
        return self.steps.resize_and_crop(image)[None]

    def cut(self, image: Image.Image) -> Tiles:
        """The picture in one tile."""
        return Tiles(self.steps(image)[None], Grid())

    def expand(self, grid: Grid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token."""
        return np.full(budget, self.setting.image_token_id, dtype=np.int64)

    def arrange(
        self, grid: Grid, features: VisionFeatures, constants: Mapping[str, Floats]
    ) -> Floats:
        """As they are."""
        return features.image_features[0]
