"""SigLIP, by itself (``siglip_vision_model``) and as Idefics3 and SmolVLM have it
(``idefics3_vision``, ``smolvlm_vision``): no [CLS], a norm behind the layers.

In the latter two, position embeddings are looked up by where in the picture a patch begins, so that
pictures of any shape could be read. Here every tile fills the tower's whole square, and the table
that transformers looks up for such a tile is a constant.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    Idefics3VisionTransformer,
    PreTrainedModel,
    SiglipVisionModel,
    SmolVLMVisionTransformer,
)

from pocketvlm_export.towers.clip import Clip


class Siglip(Clip):
    """The `Tower` of LLaVA-OneVision; its layers are CLIP's.

    Whether a family reads patches behind the norm is `VisionSpec.normed`. The head that pools
    pictures for retrieval is never read.
    """

    model_type: ClassVar[str] = "siglip_vision_model"
    has_cls: ClassVar[bool] = False
    model: ClassVar[type[PreTrainedModel]] = SiglipVisionModel
    unread: ClassVar[tuple[str, ...]] = ("head.", "embeddings.position_ids")
    leaves_out: ClassVar[Mapping[str, Any]] = {"vision_use_head": False}

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        embeddings: nn.Module = tower.embeddings
        return embeddings

    def final(self, tower: Any) -> nn.Module:
        """The norm."""
        norm: nn.Module = tower.post_layernorm
        return norm


class Idefics3Vision(Siglip):
    """The `Tower` of Idefics3 and the first SmolVLM."""

    model_type: ClassVar[str] = "idefics3_vision"
    model: ClassVar[type[PreTrainedModel]] = Idefics3VisionTransformer
    unread: ClassVar[tuple[str, ...]] = ()
    leaves_out: ClassVar[Mapping[str, Any]] = {}

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        return FullTile(tower.embeddings)


class SmolVLMVision(Idefics3Vision):
    """The `Tower` of SmolVLM2."""

    model_type: ClassVar[str] = "smolvlm_vision"
    model: ClassVar[type[PreTrainedModel]] = SmolVLMVisionTransformer


class FullTile(nn.Module):
    """Patches and their positions of a picture that fills the tower's square: (B, 3, H, W) -> (B,
    patches, C)."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.patches = embeddings.patch_embedding
        self.positions = nn.Parameter(
            _positions(embeddings), requires_grad=False
        )  # (1, patches, C)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.patches(pixel_values).flatten(2).transpose(1, 2) + self.positions


def _positions(embeddings: Any) -> torch.Tensor:
    """What transformers looks up for a full tile; its own arithmetic decides, rounding included."""
    looked_up: list[torch.Tensor] = []
    hook = embeddings.position_embedding.register_forward_hook(
        lambda _, __, output: looked_up.append(output)
    )
    edge, side = embeddings.image_size, embeddings.num_patches_per_side
    try:
        with torch.no_grad():
            embeddings(torch.zeros(1, 3, edge, edge), torch.ones(1, side, side, dtype=torch.bool))
    finally:
        hook.remove()
    return looked_up[0].detach()
