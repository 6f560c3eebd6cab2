"""One tile per picture, padded to a square of the mean colour and resized; a newline may end it.

LLaVA-OneVision reads the pictures of a prompt so that has several of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.base import LayoutConfig, suffixed
from pocketvlm.layouts.grids import Floats, Ints, TileGrid
from pocketvlm.layouts.one_tile import OneTile
from pocketvlm.media.preprocessing import Preprocessor

NEWLINE = "image_newline"


class Squared(OneTile):
    """See `pocketvlm.layouts.base.Layout`; its option ``newline`` says whether the learnt vector
    ``image_newline`` comes behind a picture's tokens."""

    name: ClassVar[str] = "squared"
    processors: ClassVar[tuple[str, ...]] = suffixed("LlavaOnevisionImageProcessor")

    def __init__(self, config: LayoutConfig, preprocessor: Preprocessor | None) -> None:
        super().__init__(config, preprocessor)
        newline = config.options.get("newline", False)
        if not isinstance(newline, bool):
            raise ArtifactError(
                f"the layout's option newline is {newline!r}", expected="true or false"
            )
        # Of this layout they follow from its option.
        self.constants: tuple[str, ...] = (NEWLINE,) if newline else ()  # type: ignore[misc]
        self.one_grid: bool = not newline  # type: ignore[misc]

    @classmethod
    def make(cls, config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Self:
        """See `Layout.make`."""
        if processor_config is None:
            return cls(config, None)
        return cls(config, tile_steps(config, processor_config, cls.processors))

    def expand(self, grid: TileGrid, budget: int, kept: Ints | None = None) -> Ints:
        """A slot for each kept token, and one for the newline."""
        return np.full(budget + len(self.constants), self.config.image_token_id, dtype=np.int64)

    def arrange(
        self,
        grid: TileGrid,
        image_features: Floats,
        kept_indices: Ints,
        constants: Mapping[str, Floats],
    ) -> Floats:
        """The tokens of the tile in their order, then the newline."""
        ends = [constants[name][None] for name in self.constants]
        return np.concatenate([image_features[0], *ends])


def tile_steps(
    config: LayoutConfig, processor_config: Mapping[str, Any], kinds: Sequence[str]
) -> Preprocessor:
    """The steps of a picture of LLaVA-OneVision's that is one tile; raises `ArtifactError` where
    they cannot be followed."""
    if processor_config.get("do_resize") is False:
        raise ArtifactError("the image processor has do_resize false, which is not supported")
    # Where the configuration is silent, as transformers' class. What that calls do_pad fills up a
    # batch with tiles; a picture that is not cut is padded to a square whatever is stated.
    default = {"size": {"height": 384, "width": 384}, "do_center_crop": False}
    stated = {key: value for key, value in processor_config.items() if value is not None}
    preprocessor = Preprocessor.from_config(
        {**default, **stated, "do_pad": True}, kinds, padding=kinds
    )
    preprocessor.check_size(config.tile_size)
    return preprocessor
