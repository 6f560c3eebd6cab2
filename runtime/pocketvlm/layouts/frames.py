"""Video-LLaVA's layout: a clip is a few frames, each a tile, their kept tokens one frame after the
other in time.

Two ways of reading a frame, which an export chooses between by name:

- ``fastervlm``, when pruning, as in FasterVLM's code (Zhang et al. 2024, arXiv 2412.01818, on
  Video-LLaVA). [CLS] ranks the patches of each frame and is dropped. The best of each frame are
  kept in raster order, and the projector reads those alone. 8 frames of 256 patches make 2048
  tokens, and k of each frame 8 k.
- ``hf``, without pruning, as transformers' ``VideoLlavaModel.get_video_features``: [CLS] of each
  frame comes before its patches and is read by the decoder too, 8 x 257 = 2056 tokens. In
  `kept_indices` it is number 0 then, and the patches follow from 1; the manifest says ``"cls":
  true``.

Without [CLS] at a budget of all 256 patches the first is therefore not the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.base import LayoutConfig, Medium, Prepared, one_after_another
from pocketvlm.layouts.grids import Floats, Ints, TileGrid, Tiles
from pocketvlm.media.preprocessing import Preprocessor

_RECIPE = """\
This model reads clips, not pictures: {count} frames of a clip, each a tile. Of n decoded frames,
counted from 0, they are numbers {numbers}; of a short clip some come twice. Each frame goes through
the steps below, all are one batch of the vision graph, and what comes back is put together frame
after frame in time order."""
_MOST_FRAMES = 128  # published models read 8


class Frames(Prepared):
    """See `pocketvlm.layouts.base.Layout`; its option ``frames`` is how many are taken of a
    clip."""

    name: ClassVar[str] = "frames"
    medium: ClassVar[Medium] = "video"
    processors: ClassVar[tuple[str, ...]] = ("VideoLlavaImageProcessor",)

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        self.count = _count(config)

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        preprocessor = Preprocessor.from_config(processor_config, cls.processors)
        preprocessor.check_size(config.tile_size)
        return cls(config, preprocessor)

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        last = self.count - 1
        numbers = f"floor(i (n - 1) / {last}) for i = 0 to {last}" if last else "0"
        return _RECIPE.format(count=self.count, numbers=numbers)

    @property
    def summary(self) -> str:
        """See `Layout.summary`."""
        height, width = self.config.tile_size
        with_cls = ", [CLS] among their tokens" if self.config.options.get("cls") else ""
        return f"{self.count} frames of {width}x{height} pixels{with_cls}"

    @property
    def unit(self) -> str:
        """See `Layout.unit`."""
        return "frame"

    def grids(self) -> Sequence[TileGrid]:
        """One: the frames of every clip, side by side."""
        return [TileGrid(1, self.count)]

    def grid(self, height: int, width: int) -> TileGrid:
        """The same for every clip."""
        return TileGrid(1, self.count)

    def largest_size(self) -> tuple[int, int]:
        """Of one frame, which is what a clip's size is."""
        return self.config.tile_size

    def views(self, frames: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """Each frame as resized and cropped."""
        return np.stack([self.steps.resize_and_crop(frame) for frame in frames])

    def cut(self, frames: Sequence[Image.Image]) -> Tiles:
        """As many frames as `grids` says, in time order, as from
        `pocketvlm.media.videos.open_video`."""
        return Tiles(np.stack([self.steps(frame) for frame in frames]), TileGrid(1, self.count))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token."""
        return np.full(budget * grid.tiles, self.config.image_token_id, dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """Frame after frame."""
        return one_after_another(image_features)


def _count(config: LayoutConfig) -> int:
    """The option, checked, as the manifest is untrusted."""
    count = config.options.get("frames")
    if type(count) is not int or not 1 <= count <= _MOST_FRAMES:
        raise ArtifactError(
            f"the layout takes {count!r} frames of a clip", expected=f"1 to {_MOST_FRAMES}"
        )
    return count
