"""Knows what the exporter must learn about a vision tower, whichever it is: where its parts are,
and what of it differs from a plain ViT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from pocketvlm_export.towers.dimensions import Dimensions

# In which order a tower's layers have the patches of a picture. "raster": row by row. "squares":
# square by square of `VisionSpec.merge` patches, the squares row by row and the patches of each row
# by row, so that the patches of a token follow one another.
Order = Literal["raster", "squares"]

Part = Callable[[torch.Tensor], torch.Tensor]


def unrotated(x: torch.Tensor, patches: torch.Tensor | None = None) -> torch.Tensor:
    """`Block.rotate` of towers that add positions to the embeddings: ``x`` as it is."""
    return x


@dataclass(frozen=True)
class Block:
    """The parts of one pre-norm transformer layer; ``scale1`` and ``scale2`` multiply what is added
    to the residual.

    ``query``, ``key`` and ``value`` map (..., C) to (..., heads x head_dim), ``output`` back;
    ``scaling`` multiplies their products before the softmax.

    ``rotate`` turns queries and keys by the places of their patches: (B, patches, heads x head_dim)
    to the same. Its second argument has the numbers of the patches, int64 (B, n) in the tower's
    order, where they are not all of the picture's; None where they are.
    """

    norm1: Part
    query: Part
    key: Part
    value: Part
    output: Part
    scale1: Part
    norm2: Part
    mlp: Part
    scale2: Part
    heads: int
    head_dim: int
    scaling: float
    rotate: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor] = unrotated


@dataclass(frozen=True)
class Extra:
    """Further features of each token, which the decoder reads beside the projector's.

    Attributes:
        layer: the hidden state that they are made of, as `VisionSpec.feature_layers` counts.
        project: the patches of a token side by side, (..., merge^2 C), to (..., decoder hidden).
    """

    layer: int
    project: nn.Module


class Tower:
    """One architecture of vision tower, a ViT. A subclass states its parts; what it does not
    override is a plain ViT's.

    Attributes:
        model_type: of its configuration.
        has_cls: whether token 0 is [CLS].
        model: transformers' class.
        layers_prefix: before the number of a layer, in names of weights.
        unread: weights that a checkpoint may hold and an encoder never reads, by name within the
            tower.
        leaves_out: settings of its configuration with which transformers' class has none of those
            parts.
        order: in which the layers have the patches, behind [CLS].
        interpolates: it reads pictures of another size than its configuration states, and stretches
            its table of positions for that.
        stretching: the argument with which transformers' class reads pictures of another size than
            its configuration states, by interpolating its learnt positions. None if it has no such
            table, or has dynamic resolution.
        undivided: why none of its rows may be dropped between two layers, to follow "its layers";
            empty if they may. They may if patches have their positions from the first layer on and
            every layer attends to all of them.
    """

    model_type: ClassVar[str]
    has_cls: ClassVar[bool]
    model: ClassVar[type[PreTrainedModel]]
    layers_prefix: ClassVar[str] = "encoder.layers."
    unread: ClassVar[tuple[str, ...]] = ()
    leaves_out: ClassVar[Mapping[str, Any]] = {}
    order: ClassVar[Order] = "raster"
    interpolates: ClassVar[bool] = False
    stretching: ClassVar[Mapping[str, Any] | None] = None
    undivided: ClassVar[str] = ""

    def dimensions(self, config: Any) -> Dimensions:
        """Return what a configuration states of its layers, widths and heads."""
        return Dimensions.of(config)

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """Return what makes the first hidden state of pictures of ``size`` (height, width), None
        where resolution is dynamic: pixel_values (B, 3, H, W) -> (B, tokens, C)."""
        raise NotImplementedError

    def layers(self, tower: Any) -> nn.ModuleList:
        """Return the encoder's layers, which `run` and `block` understand."""
        raise NotImplementedError

    def final(self, tower: Any) -> nn.Module:
        """Return what each patch of the deepest layer goes through before patches are pooled and
        projected, where the family reads them so (`VisionSpec.normed`); nothing, unless
        overridden."""
        return nn.Identity()

    def extras(self, tower: Any) -> Mapping[str, Extra]:
        """Return its further features by the names in `VisionSpec.extras`; most towers have
        none."""
        return {}

    def geometry(self, config: PretrainedConfig, rows: int, columns: int, blocks: int) -> Any:
        """Return what the layers need to know of the picture's shape, computed once a run.

        Args:
            config: the tower's own.
            rows, columns: of tokens; sizes known only at run time where resolution is dynamic.
            blocks: how many blocks the queries of all patches are split into, to avoid a map of all
                patches by all patches; 1 if attention is fused, or small.
        """

    def run(
        self, layer: nn.Module, number: int, hidden: torch.Tensor, geometry: Any
    ) -> torch.Tensor:
        """Return the output of the layer of this number, counted from 0: (B, tokens, C) -> the
        same."""
        output: torch.Tensor = layer(hidden, None)
        return output

    def block(self, layer: Any, geometry: Any) -> Block:
        """Return the parts of a layer, for the score layer and for a layer that is computed for
        some patches only. Its attention is among all tokens."""
        raise NotImplementedError
