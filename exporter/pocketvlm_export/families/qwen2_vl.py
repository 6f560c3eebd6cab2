"""Qwen2-VL and Qwen2.5-VL (``qwen2_vl``, ``qwen2_5_vl``): a tower with dynamic resolution, tokens
of squares of patches, and a Qwen2 decoder that numbers tokens by rows and columns.

What to know when they are exported:

- Pictures keep their proportions, and the tower's work and the tokens follow from their size. An
  export allows the pixels of `DEFAULT_TOKENS` tokens, one for 28 x 28 pixels, unless
  ``--max-pixels`` says otherwise; the checkpoints' own limit is 16,384. ``--fixed-size HxW`` makes
  graphs of one shape.
- The tower has no [CLS] token, so methods that rank patches by what it attends to are refused.
  ``scope``, the default, weights them by received attention. That takes the attention map of one
  layer, by blocks of queries: half of what attention costs in that layer, once more.
- Dropped tokens leave gaps: what is left keeps the positions that it had in the whole picture.
- Pictures only. Clips are refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError
from pocketvlm.layouts.smart_resize import geometry_of, smallest_area
from pocketvlm_export import upstream
from pocketvlm_export.caps import DEFAULT_TOKENS, Caps
from pocketvlm_export.checkpoint import Settings, image_processor
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.any_size import check_edge, of_pixels, of_size, pixels_allowed
from pocketvlm_export.families.assembly import assign, with_changes
from pocketvlm_export.families.base import MOST_EDGE, Family
from pocketvlm_export.families.spec import LayoutSpec, ReferenceFeatures, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

_FRAMES = 2  # of a still picture, which the tower reads as a clip of two equal ones


class Qwen2VL(Family):
    """Qwen2-VL."""

    model_type: ClassVar[str] = "qwen2_vl"
    processor: ClassVar[str] = "Qwen2VLProcessor"
    rules: ClassVar[Sequence[tuple[re.Pattern[str], str]]] = [
        (re.compile(r"^(model\.)?visual\."), "vision_tower."),
        (re.compile(r"^model\.(language_model\.)?"), "decoder.model."),
        (re.compile(r"^lm_head\."), "decoder.lm_head."),
    ]
    caps: ClassVar[frozenset[str]] = frozenset({"max_pixels", "fixed_size"})
    place: ClassVar[str] = "<|image_pad|>"
    merger: ClassVar[Any] = upstream.model_class("qwen2_vl", "PatchMerger")
    model: ClassVar[Any] = upstream.model_class("qwen2_vl", "Qwen2VLModel")

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`; how large pictures may be is read with the processor."""
        # Checkpoints of different years name the tower differently.
        tower = with_changes(config.vision_config, model_type=f"{self.model_type}_vision")
        settings = Settings.of(config).section("vision_config")
        depth, merge = settings.integer("depth"), settings.integer("spatial_merge_size", most=64)
        vision = VisionSpec(
            tower,
            None,
            DEFAULT_TOKENS,
            has_cls=False,
            feature_layers=(depth,),
            merge=merge,
            factor=settings.integer("patch_size", most=MOST_EDGE) * merge,
        )
        image_token = Settings.of(config).integer("image_token_id", least=0)
        return VLMSpec(self, config, vision, decoder_spec(config), image_token)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """How large pictures are made."""
        factor, least, most = geometry_of(image_processor(folder))
        check_edge(spec, factor, folder)
        layout = LayoutSpec({"name": "smart-resize", "factor": factor})
        return of_pixels(spec, layout, least, most)

    def capped(self, spec: VLMSpec, caps: Caps) -> VLMSpec:
        """Make pictures smaller, or all of one size."""
        spec = super().capped(spec, caps)
        (layout,) = spec.layouts.values()
        own, least = layout.stated["max_pixels"], layout.stated["min_pixels"]
        if caps.fixed_size is not None:
            return replace(of_size(spec, layout, caps.fixed_size, own), caps=caps)
        most = pixels_allowed(spec, caps, own)
        least = smallest_area(least, most, spec.vision.factor)
        return replace(of_pixels(spec, layout, least, most), caps=Caps(max_pixels=most))

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """The merger behind its norm: (..., patches of a token side by side) -> (..., hidden)."""
        with torch.device("meta"):
            merger = self.merger(
                dim=spec.decoder.hidden,
                context_dim=spec.vision.dimensions.hidden,
                spatial_merge_size=spec.vision.merge,
            )
        layers: nn.Module = merger.mlp
        assign(layers, weights.component("vision_tower.merger.mlp."), "merger")
        return layers.eval()

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """Nothing: transformers' tower has its own."""
        return nn.Identity()

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return it with the pixels that pictures are made of."""
        config = super().image_processor_config(stated, spec, layout)
        if "size" in layout.stated:
            return config
        least, most = layout.stated["min_pixels"], layout.stated["max_pixels"]
        kept = {
            name: value
            for name, value in config.items()
            if name not in ("min_pixels", "max_pixels")
        }
        return {**kept, "size": {"shortest_edge": least, "longest_edge": most}}

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """Put the processor's patches together again.

        They stand square by square, and in each are channels, frames, rows and columns. It has no
        word for a size that is not the picture's own: pictures are then brought to it before.
        """
        image, options = images[0], {}
        if (size := layout.stated.get("size")) is not None:
            image = image.resize((size[1], size[0]), Image.Resampling(processor.resample))
            options = {"do_resize": False}
        made = processor(images=[image], return_tensors="np", **options)
        _, rows, columns = made["image_grid_thw"][0].tolist()
        patch, merge = processor.patch_size, processor.merge_size
        patches = made["pixel_values"].reshape(
            rows // merge, columns // merge, merge, merge, 3, -1, patch, patch
        )
        still = patches[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6)
        pixels: npt.NDArray[np.float32] = still.reshape(1, 3, rows * patch, columns * patch)
        return pixels

    def reference_features(
        self, tower: Any, connector: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> ReferenceFeatures:
        """See `Family.reference_features`."""
        output, order = self.run_reference(tower, spec, pixel_values)
        normed = tower.merger.ln_q(output.last_hidden_state)
        features = torch.empty_like(normed)
        features[order] = normed
        return ReferenceFeatures(features, output.pooler_output, patches=order)

    def run_reference(
        self, tower: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        """Run the tower on the patches of two equal frames; returns what it gives, and
        `reference_order`."""
        merge, patch = spec.vision.merge, spec.vision.config.patch_size
        height, width = pixel_values.shape[2:]
        rows, columns = height // patch, width // patch
        squares = pixel_values[0].reshape(
            3, rows // merge, merge, patch, columns // merge, merge, patch
        )
        still = squares.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5)
        patches = still.expand(-1, -1, -1, -1, -1, _FRAMES, -1, -1).reshape(rows * columns, -1)
        grid = torch.tensor([[1, rows, columns]])
        return tower(patches, grid_thw=grid), self.reference_order(spec, grid)

    def reference_order(self, spec: VLMSpec, grid: torch.Tensor) -> torch.Tensor:
        """Return the places in raster order of the patches as they stand in the tower's layers:
        square by square, (1, 3) of frames, rows and columns -> int64 (patches,)."""
        _, rows, columns = grid[0].tolist()
        merge = spec.vision.merge
        numbers = torch.arange(rows * columns).view(rows // merge, merge, columns // merge, merge)
        return numbers.transpose(1, 2).reshape(-1, merge**2)[self._squares(spec, grid)].flatten()

    def _squares(self, spec: VLMSpec, grid: torch.Tensor) -> torch.Tensor:
        """The order of the squares: row by row."""
        return torch.arange(int(grid.prod()) // spec.vision.merge**2)

    def reference_positions(
        self, spec: VLMSpec, ids: npt.NDArray[np.int64], grids: Sequence[tuple[int, int]]
    ) -> npt.NDArray[np.int64] | None:
        """By transformers' ``get_rope_index``."""
        merge, is_image = spec.vision.merge, ids == spec.image_token_id
        patches = [(1, rows * merge, columns * merge) for rows, columns in grids]
        return upstream.rope_positions(self.model, spec.config, ids, is_image, patches)


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    processor: ClassVar[str] = "Qwen2_5_VLProcessor"
    merger: ClassVar[Any] = upstream.model_class("qwen2_5_vl", "Qwen2_5_VLPatchMerger")
    model: ClassVar[Any] = upstream.model_class("qwen2_5_vl", "Qwen2_5_VLModel")

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        settings = Settings.of(config).section("vision_config")
        depth, whole = settings.integer("depth"), settings.integers("fullatt_block_indexes")
        if depth - 1 not in whole:
            raise CheckpointError(
                f"the last of {depth} layers of the vision tower attends within windows "
                f"(fullatt_block_indexes {whole})",
                expected="a last layer that attends to the whole picture, as published ones have",
            )
        return super().parse(config)

    def _squares(self, spec: VLMSpec, grid: torch.Tensor) -> torch.Tensor:
        """The order of the squares: window by window."""
        return upstream.window_order(grid, spec.vision.config)
