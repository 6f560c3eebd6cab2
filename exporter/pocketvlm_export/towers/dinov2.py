"""DINOv2's vision tower (``dinov2``): no norm before the first layer, a learnt scale on every
residual branch, a table of positions that is stretched to the picture's size.

Published towers have a table for pictures of 518 x 518 pixels and read 224 x 224. What transformers
makes of the table for pictures of the export's size is a constant.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from transformers import Dinov2Model, PreTrainedModel

from pocketvlm_export.towers.base import Block, Tower
from pocketvlm_export.towers.positions import stretched


class DINOv2(Tower):
    """The `Tower` of LLaVA checkpoints whose vision tower is DINOv2 (arXiv 2304.07193); LLaVA takes
    its hidden states as they are."""

    model_type: ClassVar[str] = "dinov2"
    has_cls: ClassVar[bool] = True
    model: ClassVar[type[PreTrainedModel]] = Dinov2Model
    layers_prefix: ClassVar[str] = "encoder.layer."
    interpolates: ClassVar[bool] = True
    stretching: ClassVar[Mapping[str, Any] | None] = {}

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        assert size is not None
        embeddings = tower.embeddings
        return stretched(embeddings, embeddings.patch_embeddings, size, embeddings.cls_token)

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
