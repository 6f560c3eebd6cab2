"""Knows the dimensions of a checkpoint as the exporter reads them: of its tower, its decoder, its
layouts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from transformers import PretrainedConfig

if TYPE_CHECKING:
    from pocketvlm_export.families.base import Family

# How a square of patches becomes what the projector reads as one token: its patches' features
# behind one another row by row, or their mean.
Pool = Literal["side by side", "mean"]


@dataclass(frozen=True)
class VisionSpec:
    """A vision tower and which of its layers the decoder reads.

    Attributes:
        config: the tower's own configuration.
        image_size: (height, width) in pixels; None where resolution is dynamic, any multiple of
            ``factor`` each.
        tokens: N, tokens of a picture that the decoder may read, [CLS] not counted; with dynamic
            resolution those of the largest picture allowed.
        has_cls: whether token 0 is a [CLS] token.
        feature_layers: indices into the tower's hidden states (0 is the embeddings, i the output of
            layer i - 1), in the order in which their features are concatenated; all >= 1.
        merge: edge of the square of patches that the projector reads as one token; 1 where each
            patch is a token.
        pool: how that square becomes one token.
        factor: edge of a token in pixels where resolution is dynamic, 0 where it is not.
    """

    config: PretrainedConfig
    image_size: tuple[int, int] | None
    tokens: int
    has_cls: bool
    feature_layers: tuple[int, ...]
    merge: int = 1
    pool: Pool = "side by side"
    factor: int = 0

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of so many pixels, which with dynamic resolution may be
        sizes that are known only at run time."""
        if self.image_size is None:
            return height // self.factor, width // self.factor
        return self.grid

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens where resolution is fixed: as the picture is shaped,
        ``tokens`` in all; else a single row."""
        if self.image_size is None:
            raise ValueError("the grid follows from each picture, see grid_of")
        height, width = self.image_size
        columns = math.isqrt(self.tokens * width // height)
        rows = self.tokens // columns
        return (rows, columns) if rows * columns == self.tokens else (1, self.tokens)

    @property
    def sequence(self) -> int:
        """How many tokens the tower's layers read: every patch, and [CLS]."""
        return self.tokens * self.merge**2 + int(self.has_cls)

    @property
    def score_layer(self) -> int:
        """0-based encoder layer whose attention ranks patches: the one whose output is the last
        listed feature."""
        return self.feature_layers[-1] - 1

    @property
    def depth(self) -> int:
        """Encoder layers that are needed at all; the layers above the deepest feature are not
        exported."""
        return max(self.feature_layers)

    @property
    def intermediate(self) -> int:
        """Width of the hidden layer of each MLP; DINOv2's configuration states it as a ratio."""
        stated = getattr(self.config, "intermediate_size", None)
        return int(stated or self.config.hidden_size * self.config.mlp_ratio)


@dataclass(frozen=True)
class DecoderSpec:
    """A language model's dimensions.

    ``context`` is the longest sequence in tokens, ``positions`` how they are numbered, one of
    `pocketvlm.decoders.positions.POSITIONS`.
    """

    config: PretrainedConfig
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    context: int
    tied: bool
    positions: str = "contiguous"


@dataclass(frozen=True)
class LayoutSpec:
    """One way in which a family's pictures become tiles and slots.

    Attributes:
        stated: ``vision.layout`` of the manifest: the name of a layout of `pocketvlm.layouts`, and
            its options.
        exact: with every token kept it gives what transformers gives; without pruning no other is
            exported.
        constants: outputs of the vision graph that it reads beside the features, see
            `Family.load_constants`.
        with_cls: the decoder reads [CLS] of each tile too, in front of its patches; under it
            nothing is pruned.
    """

    stated: Mapping[str, Any]
    exact: bool = True
    constants: tuple[str, ...] = ()
    with_cls: bool = False

    @property
    def one_tile(self) -> bool:
        """Whether a picture is one tile, which is all that clients other than this runtime are
        promised."""
        return self.stated["name"] == "single"


# The layout of the families whose pictures are one tile each.
ONE_TILE: Mapping[str, LayoutSpec] = {"single": LayoutSpec({"name": "single"})}


@dataclass(frozen=True)
class VLMSpec:
    """A checkpoint as the exporter reads it: parsed, checked, nothing loaded.

    ``layouts`` are those of its family by what ``--layout`` calls them, the default when pruning
    first. Token ``image_token_id`` takes the place of a picture or clip in a prompt.
    """

    family: Family
    config: PretrainedConfig
    vision: VisionSpec
    decoder: DecoderSpec
    image_token_id: int
    layouts: Mapping[str, LayoutSpec] = field(default_factory=lambda: ONE_TILE)

    def under(self, layout: LayoutSpec) -> Self:
        """Return what it is under a layout: where the decoder reads [CLS], that is a token like any
        other."""
        if not (layout.with_cls and self.vision.has_cls):
            return self
        return replace(
            self, vision=replace(self.vision, tokens=self.vision.tokens + 1, has_cls=False)
        )
