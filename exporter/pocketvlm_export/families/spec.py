"""Knows the dimensions of a checkpoint as the exporter reads them: of its tower, its decoder, its
layouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from transformers import PretrainedConfig

from pocketvlm.artifact.specs import CAUSAL, PictureText
from pocketvlm.layouts import LayoutConfig, TileGrid
from pocketvlm_export.caps import Caps
from pocketvlm_export.towers import TOWERS
from pocketvlm_export.towers.dimensions import Dimensions

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
        normed: the projector reads patches behind the norm that follows the tower's layers, if it
            has one (`towers.base.Tower.final`); else the deepest layer's output as it is.
        factor: edge of a token in pixels where resolution is dynamic, 0 where it is not.
        extras: names of further features of each token, see `towers.base.Extra`.
        made_for: (height, width) of the checkpoint's own pictures, where ``image_size`` is another
            on request; ``config`` is still the tower's own.
        cls_ranks: what [CLS] attends to, where there is one, ranks patches well as far as is known.
    """

    config: PretrainedConfig
    image_size: tuple[int, int] | None
    tokens: int
    has_cls: bool
    feature_layers: tuple[int, ...]
    merge: int = 1
    pool: Pool = "side by side"
    normed: bool = True
    factor: int = 0
    extras: tuple[str, ...] = ()
    made_for: tuple[int, int] | None = None
    cls_ranks: bool = True

    @property
    def called_with(self) -> Mapping[str, Any]:
        """What transformers' tower is called with beside pictures of ``image_size``."""
        stretching = TOWERS[self.config.model_type].stretching
        return stretching if self.made_for and stretching else {}

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of so many pixels, which with dynamic resolution may be
        sizes that are known only at run time."""
        if self.image_size is None:
            return height // self.factor, width // self.factor
        return self.grid

    @property
    def tile_size(self) -> tuple[int, int]:
        """``image_size`` where resolution is fixed."""
        if self.image_size is None:
            raise ValueError("the size follows from each picture")
        return self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens where resolution is fixed: as the picture is shaped,
        ``tokens`` in all; else a single row."""
        height, width = self.tile_size
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
    def dimensions(self) -> Dimensions:
        """Layers, widths and heads, as the tower's configuration states them."""
        return TOWERS[self.config.model_type].dimensions(self.config)


@dataclass(frozen=True)
class DecoderSpec:
    """A language model's dimensions.

    ``context`` is the longest sequence in tokens, ``positions`` how they are numbered, one of
    `pocketvlm.decoders.positions.POSITIONS`, and ``first_position`` the number of the first.
    ``attention`` is which of them see each other, one of
    `pocketvlm.artifact.specs.ATTENTIONS`. ``extras`` are names of `VisionSpec.extras` whose
    features are added to the hidden state behind the first layers, one behind each (DeepStack,
    arXiv 2406.04334). ``conv_layers`` and ``conv_width`` are as in
    `pocketvlm.artifact.specs.DecoderSpec`.
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
    extras: tuple[str, ...] = ()
    first_position: int = 0
    attention: str = CAUSAL
    conv_layers: tuple[int, ...] = ()
    conv_width: int = 0


NEWLINE = -1  # in place of a token's number, see `Order`

# (configuration, tiles, tokens per tile, (height, width) of the picture) -> numbers of tokens, on
# from tile to tile, in the order that the decoder reads them, `NEWLINE` between.
Order = Callable[[Any, int, int, tuple[int, int]], list[int]]


def tile_after_tile(config: Any, tiles: int, tokens: int, size: tuple[int, int]) -> list[int]:
    """The `Order` of most families."""
    return list(range(tiles * tokens))


@dataclass(frozen=True)
class LayoutSpec:
    """One way in which a family's pictures become tiles and slots.

    ``order`` and ``text`` are how transformers arranges a picture, by its own code, for the parity
    gate: they share nothing with `pocketvlm.layouts`.

    Attributes:
        stated: ``vision.layout`` of the manifest: the name of a layout of `pocketvlm.layouts`, and
            its options.
        exact: with every token kept it gives what transformers gives; without pruning no other is
            exported.
        constants: what it reads beside the features and no picture changes, each a file of the
            artifact; see `Family.load_constants`.
        with_cls: the decoder reads [CLS] of each tile too, in front of its patches; under it
            nothing is pruned.
        stock_clients: other clients than this runtime (transformers.js) put pictures into prompts
            by themselves as it does.
        order: of a picture's tokens.
        several: how the pictures of a prompt are arranged that has several; None where that is as
            if each were alone. See `pocketvlm.layouts.Layout.several`.
        text: (image token, grid) -> what the processor writes in place of the picture, an image
            token for each tile in it; None where that is nothing but image tokens.
    """

    stated: Mapping[str, Any]
    exact: bool = True
    constants: tuple[str, ...] = ()
    with_cls: bool = False
    stock_clients: bool = False
    order: Order = tile_after_tile
    text: Callable[[str, TileGrid], str] | None = None
    several: LayoutSpec | None = None


@dataclass(frozen=True)
class ReferenceFeatures:
    """What transformers' own modules make of one tile, for the parity gate.

    Attributes:
        features: of all patches as the projector reads them, in raster order, (patches, C).
        projected: of all tokens as the decoder reads them, in raster order, (N, decoder hidden).
        layers: how many of the tower's layers lead to the features; None for all.
        patches: the places in raster order of the tower's patches, int64 (patches,), for towers
            that read them in another order; None where they do not.
        extras: further features of all tokens by name, in raster order, (N, decoder hidden) each.
    """

    features: torch.Tensor
    projected: torch.Tensor
    layers: int | None = None
    patches: torch.Tensor | None = None
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)


# The layout of the families whose pictures are one tile each.
ONE_TILE: Mapping[str, LayoutSpec] = {"single": LayoutSpec({"name": "single"}, stock_clients=True)}


@dataclass(frozen=True)
class VLMSpec:
    """A checkpoint as the exporter reads it: parsed, checked, nothing loaded.

    ``layouts`` are those of its family by what ``--layout`` calls them, the default when pruning
    first. Token ``image_token_id`` takes the place of a picture or clip in a prompt. ``caps`` are
    those that its pictures are under, see `Family.capped`. ``picture_text`` is None where the chat
    template writes a picture's image token itself.
    """

    family: Family
    config: PretrainedConfig
    vision: VisionSpec
    decoder: DecoderSpec
    image_token_id: int
    layouts: Mapping[str, LayoutSpec] = field(default_factory=lambda: ONE_TILE)
    caps: Caps = field(default_factory=Caps)
    picture_text: PictureText | None = None

    def layout_config(self, stated: Mapping[str, Any]) -> LayoutConfig:
        """Return what the runtime's layout with these options is made for."""
        vision = self.vision
        return LayoutConfig(vision.image_size, vision.tokens, self.image_token_id, stated)

    def under(self, layout: LayoutSpec) -> Self:
        """Return what it is under a layout: where the decoder reads [CLS], that is a token like any
        other."""
        if not (layout.with_cls and self.vision.has_cls):
            return self
        return replace(
            self, vision=replace(self.vision, tokens=self.vision.tokens + 1, has_cls=False)
        )
