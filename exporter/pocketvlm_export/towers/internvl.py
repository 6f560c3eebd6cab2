"""InternViT, InternVL's vision tower (``internvl_vision``): [CLS], learnt positions, a learnt scale
on every residual branch, and in the largest a norm on queries and keys."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import InternVLVisionModel, PreTrainedModel

from pocketvlm_export.towers.base import Block, Tower
from pocketvlm_export.towers.positions import positioned


class InternVLVision(Tower):
    """The `Tower` of InternVL checkpoints as transformers has them (``-hf``).

    InternViT-300M has biases on queries, keys and values; InternViT-6B has none, and RMS norms over
    all heads of a query or key together.
    """

    model_type: ClassVar[str] = "internvl_vision"
    has_cls: ClassVar[bool] = True
    model: ClassVar[type[PreTrainedModel]] = InternVLVisionModel
    layers_prefix: ClassVar[str] = "encoder.layer."
    stretching: ClassVar[Mapping[str, Any] | None] = {}

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        own = tower.embeddings
        return positioned(own, own.patch_embeddings, size, own.cls_token)

    def layers(self, tower: Any) -> nn.ModuleList:
        """See `Tower.layers`."""
        layers: nn.ModuleList = tower.encoder.layer
        return layers

    def final(self, tower: Any) -> nn.Module:
        """The norm, which checkpoints with ``use_mean_pooling`` have not: it is nothing then."""
        norm: nn.Module = tower.layernorm
        return norm

    def run(
        self, layer: nn.Module, number: int, hidden: torch.Tensor, geometry: Any
    ) -> torch.Tensor:
        """See `Tower.run`; these layers know of no mask."""
        output: torch.Tensor = layer(hidden)
        return output

    def block(self, layer: Any, geometry: Any) -> Block:
        """See `Tower.block`."""
        attention = layer.attention
        return Block(
            norm1=layer.layernorm_before,
            query=nn.Sequential(attention.q_proj, attention.q_norm),
            key=nn.Sequential(attention.k_proj, attention.k_norm),
            value=attention.v_proj,
            output=attention.projection_layer,
            scale1=lambda added: layer.lambda_1 * added,
            norm2=layer.layernorm_after,
            mlp=layer.mlp,
            scale2=lambda added: layer.lambda_2 * added,
            heads=attention.num_heads,
            head_dim=attention.head_dim,
            scaling=attention.scale,
        )
