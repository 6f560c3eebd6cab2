"""DINOv2's vision tower (``dinov2``): no norm before the first layer, a learnt scale on every
residual branch."""

from typing import Any, ClassVar

from torch import nn
from transformers import Dinov2Model, PreTrainedModel

from pocketvlm_export.towers.base import Block, Tower


class DINOv2(Tower):
    """The `Tower` of LLaVA checkpoints whose vision tower is DINOv2 (arXiv 2304.07193); LLaVA takes
    its hidden states as they are."""

    model_type: ClassVar[str] = "dinov2"
    has_cls: ClassVar[bool] = True
    model: ClassVar[type[PreTrainedModel]] = Dinov2Model
    layers_prefix: ClassVar[str] = "encoder.layer."

    def embeddings(self, tower: Any) -> nn.Module:
        """See `Tower.embeddings`."""
        embeddings: nn.Module = tower.embeddings
        return embeddings

    def layers(self, tower: Any) -> nn.ModuleList:
        """See `Tower.layers`."""
        layers: nn.ModuleList = tower.encoder.layer
        return layers

    def block(self, layer: Any, geometry: Any) -> Block:
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
