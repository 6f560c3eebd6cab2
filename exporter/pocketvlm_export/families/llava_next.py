"""LLaVA-NeXT (``model_type: llava_next``): LLaVA's parts, and pictures cut into tiles of which rows
end in newlines."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn
from transformers import PretrainedConfig

from pocketvlm_export import upstream
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.llava import Llava, check_shape
from pocketvlm_export.families.spec import LayoutSpec, VLMSpec

_NEWLINE = "image_newline"


class LlavaNext(Llava):
    """The `Family` of LLaVA 1.6 and its like."""

    model_type = "llava_next"
    processor = "LlavaNextProcessor"
    projector: type[nn.Module] = upstream.LlavaNextMultiModalProjector

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        pinpoints = [list(size) for size in config.image_grid_pinpoints]
        layouts = {
            "fastervlm": LayoutSpec(
                {"name": "anyres-fastervlm", "pinpoints": pinpoints}, exact=False
            ),
            "hf": LayoutSpec({"name": "anyres-hf", "pinpoints": pinpoints}, constants=(_NEWLINE,)),
        }
        return replace(super().parse(config), layouts=layouts)

    def canonical(self, stored: str) -> str | None:
        """See `Family.canonical`."""
        return _NEWLINE if stored.removeprefix("model.") == _NEWLINE else super().canonical(stored)

    def load_constants(self, weights: Weights, spec: VLMSpec) -> Mapping[str, torch.Tensor]:
        """The newline."""
        newline = weights.tensor(_NEWLINE)
        check_shape(_NEWLINE, newline, (spec.decoder.hidden,))
        return {_NEWLINE: newline}
