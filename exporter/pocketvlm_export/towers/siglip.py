"""SigLIP, by itself (``siglip_vision_model``) and as Idefics3 and SmolVLM have it
(``idefics3_vision``, ``smolvlm_vision``): no [CLS], a norm behind the layers.

In the latter two, position embeddings are looked up by where in the picture a patch begins, so that
pictures of any shape could be read. Here every tile has one size, and what transformers looks up
for it is a constant.
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
from pocketvlm_export.towers.positions import Positioned, positioned


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
        return positioned(tower.embeddings, tower.embeddings.patch_embedding, size)

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
    stretching: ClassVar[Mapping[str, Any] | None] = {}

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        assert size is not None
        embeddings = tower.embeddings
        return Positioned(embeddings.patch_embedding, _looked_up(embeddings, size))


class SmolVLMVision(Idefics3Vision):
    """The `Tower` of SmolVLM2."""

    model_type: ClassVar[str] = "smolvlm_vision"
    model: ClassVar[type[PreTrainedModel]] = SmolVLMVisionTransformer


def _looked_up(embeddings: Any, size: tuple[int, int]) -> torch.Tensor:
    """What transformers looks up for a tile of ``size`` (height, width) that patches fill, (1, P,
    C); its own arithmetic decides, rounding included."""
    looked_up: list[torch.Tensor] = []
    hook = embeddings.position_embedding.register_forward_hook(
        lambda _, __, output: looked_up.append(output)
    )
    (height, width), edge = size, embeddings.patch_size
    patches = torch.ones(1, height // edge, width // edge, dtype=torch.bool)
    try:
        with torch.no_grad():
            embeddings(torch.zeros(1, 3, height, width), patches)
    finally:
        hook.remove()
    return looked_up[0].detach()
