"""Qwen3-VL (``qwen3_vl``): Qwen2-VL's pictures and positions, a tower that gives further features
of each token (DeepStack), and a Qwen3 decoder that reads them behind its first layers.

What to know when they are exported:

- The further features are outputs of the vision graph, ``deepstack_0`` and so on, gathered with the
  kept tokens. The decoder graph has an input for each. Without them answers are wrong, not broken.
- A token is 32 x 32 pixels, so that a picture of the same size is fewer tokens than with Qwen2-VL.
- Frequencies of the decoder's rotary embedding alternate between time, row and column; the
  positions themselves are Qwen2-VL's.
- Pictures only. Clips are refused, and so are mixtures of experts, which are another family
  (``qwen3_vl_moe``).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import Settings
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.assembly import assign
from pocketvlm_export.families.qwen2_vl import Qwen2VL
from pocketvlm_export.families.spec import ReferenceFeatures, VLMSpec
from pocketvlm_export.towers.qwen3_vl import EXTRA, merger_layers


class Qwen3VL(Qwen2VL):
    """Qwen3-VL."""

    model_type: ClassVar[str] = "qwen3_vl"
    processor: ClassVar[str] = "Qwen3VLProcessor"
    merger: ClassVar[Any] = upstream.model_class("qwen3_vl", "Qwen3VLVisionPatchMerger")
    model: ClassVar[Any] = upstream.model_class("qwen3_vl", "Qwen3VLModel")

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        spec = super().parse(config)
        vision = Settings.of(config).section("vision_config")
        _check_tower(vision, spec)
        extras = tuple(map(EXTRA.format, range(len(vision.integers("deepstack_visual_indexes")))))
        return replace(
            spec,
            vision=replace(spec.vision, extras=extras),
            decoder=replace(spec.decoder, extras=extras),
        )

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """The merger behind its norm: (..., patches of a token side by side) -> (..., hidden)."""
        with torch.device("meta"):
            layers = nn.Sequential(merger_layers(self.merger(spec.vision.config)))
        state = weights.component("vision_tower.merger.", without=r"norm\.")
        assign(layers, state, "merger")
        return layers.eval()

    def reference_features(
        self, tower: Any, connector: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> ReferenceFeatures:
        """See `Qwen2VL.reference_features`; the further features come with it."""
        output, order = self.run_reference(tower, spec, pixel_values)
        normed = tower.merger.norm(output.last_hidden_state)
        features = torch.empty_like(normed)
        features[order] = normed
        extras = dict(zip(spec.vision.extras, output.deepstack_features, strict=True))
        return ReferenceFeatures(features, output.pooler_output, patches=order, extras=extras)

    def reference_inputs(
        self,
        model: Any,
        inputs_embeds: torch.Tensor,
        is_visual: npt.NDArray[np.bool_],
        extras: Mapping[str, npt.NDArray[np.float32]],
    ) -> Mapping[str, Any]:
        """See `Family.reference_inputs`: a mask of the pictures' tokens, and rows for these."""
        if not extras:
            return {}
        return {
            "visual_pos_masks": torch.from_numpy(is_visual)[None],
            "deepstack_visual_embeds": [torch.from_numpy(rows) for rows in extras.values()],
        }


def _check_tower(vision: Settings, spec: VLMSpec) -> None:
    """Refuse a tower that this exporter would read otherwise than transformers; raises
    `CheckpointError`."""
    depth, layers = vision.integer("depth"), vision.integers("deepstack_visual_indexes")
    if layers != sorted({*layers}) or any(layer >= depth for layer in layers):
        raise vision.refusal(
            "deepstack_visual_indexes", f"different layers of 0..{depth - 1}, ascending"
        )
    if len(layers) > spec.decoder.layers:
        raise vision.refusal(
            "deepstack_visual_indexes",
            f"at most {spec.decoder.layers}, one for each of the decoder's layers",
        )
    points = vision.integer("num_position_embeddings", least=4)
    if int(points**0.5) ** 2 != points:
        raise vision.refusal("num_position_embeddings", "a square number")
    if (width := vision.integer("out_hidden_size")) != spec.decoder.hidden:
        raise CheckpointError(
            f"the tower makes features of {width} (vision_config.out_hidden_size) for a decoder of "
            f"{spec.decoder.hidden} (text_config.hidden_size)",
            expected="the same number",
            advice="give the configuration of this model",
        )
