"""CLIP's vision tower (``clip_vision_model``): a norm before the first layer, no scales."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from transformers import CLIPVisionModel, PreTrainedModel

from pocketvlm_export.towers.base import Block, Tower
from pocketvlm_export.towers.positions import positioned


class Clip(Tower):
    """The `Tower` of LLaVA 1.5, which takes hidden states as they are."""

    model_type: ClassVar[str] = "clip_vision_model"
    has_cls: ClassVar[bool] = True
    model: ClassVar[type[PreTrainedModel]] = CLIPVisionModel
    unread: ClassVar[tuple[str, ...]] = ("embeddings.position_ids",)
    stretching: ClassVar[Mapping[str, Any] | None] = {"interpolate_pos_encoding": True}

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        own = tower.embeddings
        made = positioned(own, own.patch_embedding, size, own.class_embedding)
        return nn.Sequential(made, tower.pre_layrnorm)  # spelt so in transformers

    def layers(self, tower: Any) -> nn.ModuleList:
        """See `Tower.layers`."""
        layers: nn.ModuleList = tower.encoder.layers
        return layers

    def block(self, layer: Any, geometry: Any) -> Block:
        """See `Tower.block`."""
        attention = layer.self_attn
        return Block(
            norm1=layer.layer_norm1,
            query=attention.q_proj,
            key=attention.k_proj,
            value=attention.v_proj,
            output=attention.out_proj,
            scale1=nn.Identity(),
            norm2=layer.layer_norm2,
            mlp=layer.mlp,
            scale2=nn.Identity(),
            heads=attention.num_heads,
            head_dim=attention.head_dim,
            scaling=attention.scale,
        )
