"""CLIP's vision tower (``clip_vision_model``): a norm before the first layer, no scales."""

from typing import Any

from torch import nn
from transformers import CLIPVisionModel, PreTrainedModel

from pocketvlm_export.towers.base import Block
from pocketvlm_export.towers.dimensions import Dimensions


class Clip:
    """The `Tower` of LLaVA 1.5."""

    model_type = "clip_vision_model"
    has_cls = True
    model: type[PreTrainedModel] = CLIPVisionModel
    layers_prefix = "encoder.layers."
    unread: tuple[str, ...] = ("embeddings.position_ids",)

    depth_name = "num_hidden_layers"

    def dimensions(self, config: Any) -> Dimensions:
        """See `Tower.dimensions`."""
        return Dimensions.of(config)

    def embeddings(self, tower: Any) -> nn.Module:
        """See `Tower.embeddings`."""
        return nn.Sequential(tower.embeddings, tower.pre_layrnorm)  # spelt so in transformers

    def layers(self, tower: Any) -> nn.ModuleList:
        """See `Tower.layers`."""
        layers: nn.ModuleList = tower.encoder.layers
        return layers

    def final(self, tower: Any) -> nn.Module:
        """Nothing: LLaVA takes hidden states as they are."""
        return nn.Identity()

    def block(self, layer: Any) -> Block:
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
