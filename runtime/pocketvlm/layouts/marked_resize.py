"""LFM2-VL's pictures: one tile of about the picture's own size and proportions, in whole tokens,
between two tokens that mark it.

Published models cut large pictures into tiles of 512 x 512 pixels too, see
`pocketvlm.layouts.thumbnail`. Here every picture is one tile, as their processor makes with
``do_image_splitting`` false.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.base import LayoutConfig, suffixed
from pocketvlm.layouts.grids import Ints, TileGrid
from pocketvlm.layouts.smart_resize import SmartResize, smart_size
from pocketvlm.limits import is_int
from pocketvlm.media.preprocessing import Preprocessor

_MOST_IDS = 64  # before or after a picture
# Where the configuration is silent, as transformers.
_DEFAULTS = {
    "encoder_patch_size": 16,
    "downsample_factor": 2,
    "min_image_tokens": 64,
    "max_image_tokens": 256,
}

_RECIPE = """\
A picture of W x H pixels is resized to w x h by the filter {filter}, of 8-bit samples. With
f = {factor} (every division is in double precision, `round` takes halves to the even number):

1. h = max(f, f round(H / f)), w = max(f, f round(W / f)).
2. Where h w > {most}: b = sqrt(H W / {most}), h = max(f, f floor(H / b / f)), and w likewise.
   Where h w < {least}: b = sqrt({least} / (H W)), h = f ceil(H b / f), and w likewise.

The picture then has (h / f) (w / f) tokens before pruning, in reading order, at most {tokens};
`image_features` has as many rows as are kept, all of them where they are no more than the budget.
"""
_AROUND = """
In the place of the picture's token come the ids {before}, an image token for each row of
`image_features`, and the ids {after}."""


class MarkedResize(SmartResize):
    """See `pocketvlm.layouts.base.Layout`.

    Options: those of `SmartResize`, and ``before`` and ``after``, lists of the token ids around the
    slots of a picture.
    """

    name: ClassVar[str] = "marked-resize"
    processors: ClassVar[tuple[str, ...]] = suffixed("Lfm2VlImageProcessor")
    most_aspect: ClassVar[int] = 1 << 25  # transformers refuses none

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        self.before, self.after = (_ids(config, name) for name in ("before", "after"))

    @classmethod
    def stated(cls, processor_config: Mapping[str, Any]) -> tuple[int, int, int]:
        """(factor, min_pixels, max_pixels) of an image processor's configuration; raises
        `ArtifactError` where they are not whole numbers."""
        values = {
            name: default if (value := processor_config.get(name)) is None else value
            for name, default in _DEFAULTS.items()
        }
        if not all(is_int(value, 1) for value in values.values()):
            raise ArtifactError(
                f"the image processor has {values}", expected="whole numbers from 1 on"
            )
        patch, merge, least, most = values.values()
        factor = int(patch) * int(merge)
        return factor, int(least) * factor**2, int(most) * factor**2

    @property
    def recipe(self) -> str:
        """See `Layout.recipe`."""
        around = _AROUND.format(before=f"`{self.before}`", after=f"`{self.after}`")
        if self.size:
            return super().recipe + "\n" + around
        return self._sizes() + around

    def _sizes(self) -> str:
        """How a picture that is one tile is resized."""
        return _RECIPE.format(
            filter=self.steps.resample.name.lower(),
            factor=self.factor,
            least=self.min_pixels,
            most=self.max_pixels,
            tokens=self.max_pixels // self.factor**2,
        )

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """See `SmartResize.size_of`: no edge is rounded down to nothing."""
        factor = self.factor
        return smart_size(height, width, factor, self.min_pixels, self.max_pixels, least=factor)

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token, between the ids around them."""
        return np.array([*self.before, *super().expand(grid, budget), *self.after], dtype=np.int64)


def are_ids(ids: Any, image_token_id: int) -> bool:
    """Whether an option is a list of a few token ids, none of them the image token."""
    return (
        isinstance(ids, list)
        and len(ids) <= _MOST_IDS
        and all(is_int(token, 0) for token in ids)
        and image_token_id not in ids
    )


def _ids(config: LayoutConfig, name: str) -> list[int]:
    """Token ids of an option, none of them the image token."""
    ids = config.options.get(name)
    if not are_ids(ids, config.image_token_id):
        raise ArtifactError(
            f"the layout writes {ids!r} {name} a picture",
            expected=f"a list of at most {_MOST_IDS} token ids, the image token not among them",
        )
    return list(ids or [])
