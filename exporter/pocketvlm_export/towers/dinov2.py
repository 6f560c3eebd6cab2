"""DINOv2's vision tower (``dinov2``): no norm before the first layer, a learnt scale on every
residual branch."""

from typing import Any

from torch import nn
from transformers import Dinov2Model, PreTrainedModel

from pocketvlm_export.towers.base import Block
from pocketvlm_export.towers.dimensions import Dimensions


class DINOv2:
    """The `Tower` of LLaVA checkpoints whose vision tower is DINOv2 (arXiv 2304.07193)."""

    model_type = "dinov2"
    has_cls = True
    model: type[PreTrainedModel] = Dinov2Model
    layers_prefix = "encoder.layer."
    unread: tuple[str, ...] = ()

    depth_name = "num_hidden_layers"

    def dimensions(self, config: Any) -> Dimensions:
        """See `Tower.dimensions`."""
        return Dimensions.of(config)

    def embeddings(self, tower: Any) -> nn.Module:
        """See `Tower.embeddings`."""
        embeddings: nn.Module = tower.embeddings
        return embeddings

    def layers(self, tower: Any) -> nn.ModuleList:
        """See `Tower.layers`."""
        layers: nn.ModuleList = tower.encoder.layer
        return layers

    def final(self, tower: Any) -> nn.Module:
        """Nothing: LLaVA takes hidden states as they are."""
        return nn.Identity()

    def block(self, layer: Any) -> Block:
        """See `Tower.block`."""
        attention = layer.attention
        return Block(
            norm1=layer.norm1,
            query=attention.q_proj,
            key=attention.k_proj,
            value=attention.v_proj,
            output=attention.o_proj,
            scale1=layer.layer_scale1,
            norm2=layer.norm2,
            mlp=layer.mlp,
            scale2=layer.layer_scale2,
            heads=attention.num_attention_heads,
            head_dim=attention.head_dim,
            scaling=attention.scaling,
        )
