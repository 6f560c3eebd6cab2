"""LFM2-VL (``lfm2_vl``): a SigLIP2 tower that reads pictures of any size, squares of patches made
one token, a decoder whose layers are mostly short convolutions.

What to know when they are exported:

- Every picture is one tile that keeps its proportions, of 64 to 256 tokens of 32 x 32 pixels.
  Published processors cut pictures of more than twice that into tiles and a thumbnail; here they
  are made smaller, as by ``do_image_splitting: false``. Whoever exports hears of it.
- The tower has no [CLS] token, so methods that rank patches by what it attends to are refused;
  ``scope``, the default, weighs them by received attention. That takes the attention map of one
  layer, by blocks of queries: half of what attention costs in that layer, once more.
- What a convolution has read cannot be cut. A conversation goes on from its last turn, and an
  answer is made again from its question; of a prompt that differs earlier nothing is reused but
  the pictures' features.
- Pictures only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError
from pocketvlm.layouts import TileGrid
from pocketvlm.layouts.marked_resize import MarkedResize
from pocketvlm.layouts.smart_resize import smallest_area
from pocketvlm_export import upstream
from pocketvlm_export.caps import Caps
from pocketvlm_export.checkpoint import Settings, image_processor, load_tokenizer, text_ids
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.any_size import check_edge, of_pixels, of_size, pixels_allowed
from pocketvlm_export.families.assembly import with_changes
from pocketvlm_export.families.base import MOST_EDGE, Family
from pocketvlm_export.families.lfm2_vl_pictures import patches_of, picture_of
from pocketvlm_export.families.spec import LayoutSpec, ReferenceFeatures, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

_TOWER = "siglip2_vision_model"
_TOKENS = 256  # of the largest picture; how many they are is read with the processor
# The tokens around a picture by what the tokenizer calls them, else these.
_MARKS = {"image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
_MARKED = "use_image_special_tokens"  # of processor_config.json


class Lfm2VL(Family):
    """LFM2-VL."""

    model_type: ClassVar[str] = "lfm2_vl"
    processor: ClassVar[str] = "Lfm2VlProcessor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "lfm2_vl", "Lfm2VlMultiModalProjector"
    )
    caps: ClassVar[frozenset[str]] = frozenset({"max_pixels", "fixed_size"})

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        whole = Settings.of(config)
        settings = whole.section("vision_config")
        if settings.text("model_type") != _TOWER:
            raise CheckpointError(
                f"the vision tower is a {settings.text('model_type')}, which is not supported",
                expected=f"a {_TOWER}, as published checkpoints have",
            )
        if whole.stated("vision_feature_layer") not in (None, -1):
            raise CheckpointError(
                f"vision_feature_layer is {config.vision_feature_layer}",
                expected="-1, the only one that transformers reads",
            )
        depth, patches = (settings.integer(key) for key in ("num_hidden_layers", "num_patches"))
        merge, side = whole.integer("downsample_factor", most=64), round(patches**0.5)
        if side**2 != patches:
            raise CheckpointError(
                f"vision_config.num_patches is {patches}", expected="a square number of positions"
            )
        # The tower's embeddings read squares of patches; its head is no part of the model.
        tower = with_changes(config.vision_config, merge=merge, vision_use_head=False)
        vision = VisionSpec(
            tower,
            None,
            _TOKENS,
            has_cls=False,
            feature_layers=(depth,),
            merge=merge,
            factor=settings.integer("patch_size", most=MOST_EDGE) * merge,
        )
        image_token = whole.integer("image_token_id", least=0)
        return VLMSpec(self, config, vision, decoder_spec(config), image_token)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """How large pictures are made, and the ids of the tokens around them."""
        factor, least, most = MarkedResize.stated(image_processor(folder))
        check_edge(spec, factor, folder)
        marks = self._marks(folder)
        tokenizer = load_tokenizer(folder)
        ids = [text_ids(tokenizer, mark) for mark in marks]
        if any(len(each) != 1 for each in ids):
            raise CheckpointError(
                f"the tokenizer in {folder} has no tokens {' and '.join(marks)}",
                advice="give the whole checkpoint, with the tokenizer's added tokens",
            )
        before, after = ids or ([], [])
        text = partial(_marked, marks) if marks else None
        stated = {"name": "marked-resize", "before": before, "after": after, "factor": factor}
        return of_pixels(spec, LayoutSpec(stated, text=text), least, most)

    def _marks(self, folder: Path) -> tuple[str, ...]:
        """The tokens around a picture, none where the processor writes none."""
        stated = Settings(read_json(folder / "processor_config.json"), "processor_config.json")
        if not stated.boolean(_MARKED, True):
            return ()
        tokenizer = load_tokenizer(folder)
        return tuple(str(getattr(tokenizer, key, None) or token) for key, token in _MARKS.items())

    def contradictions(self, spec: VLMSpec, folder: Path) -> Sequence[str]:
        """What the processor makes of large pictures, and is not exported."""
        stated = image_processor(folder)
        splits = stated.get("do_image_splitting") and stated.get("max_tiles") != 1
        contradicting = super().contradictions(spec, folder)
        if not splits:
            return contradicting
        return (
            *contradicting,
            f"the image processor cuts pictures of more than {stated['max_pixels_tolerance']} "
            f"times {stated['max_image_tokens']} tokens into up to {stated['max_tiles']} tiles and "
            "a thumbnail: exported is the whole picture in one tile, as with do_image_splitting "
            "false",
        )

    def capped(self, spec: VLMSpec, caps: Caps) -> VLMSpec:
        """Make pictures smaller, or all of one size."""
        spec = super().capped(spec, caps)
        (layout,) = spec.layouts.values()
        own, least = layout.stated["max_pixels"], layout.stated["min_pixels"]
        square = spec.vision.factor**2
        if caps.fixed_size is not None:
            return replace(of_size(spec, layout, caps.fixed_size, own), caps=caps)
        # The processor counts tokens.
        most = pixels_allowed(spec, caps, own) // square * square
        least = smallest_area(least, most, spec.vision.factor)
        return replace(of_pixels(spec, layout, least, most), caps=Caps(max_pixels=most))

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """The projector without its pixel unshuffle: it reads the patches of a token side by side
        already."""
        projector = super().load_projector(weights, spec)
        parts = (projector.layer_norm, projector.linear_1, projector.act, projector.linear_2)
        return nn.Sequential(*(part for part in parts if part is not None)).eval()

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """See `Family.load_connector`: (1, rows, columns, C) of patches -> (1, rows, columns,
        decoder hidden) of tokens."""
        return super().load_projector(weights, spec)

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return it with the pixels that pictures are made of, in one tile."""
        config = super().image_processor_config(stated, spec, layout)
        config |= {"do_image_splitting": False}
        if "size" in layout.stated:
            return config
        square = spec.vision.factor**2
        return config | {
            f"{name}_image_tokens": max(1, layout.stated[f"{name}_pixels"] // square)
            for name in ("min", "max")
        }

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """Put the processor's patches together again.

        It has no word for a size that is not the picture's own: pictures are then brought to it
        before, and the processor is given that many tokens.
        """
        image, options = images[0], {}
        if (size := layout.stated.get("size")) is not None:
            image = image.resize((size[1], size[0]), Image.Resampling(processor.resample))
            tokens = size[0] * size[1] // layout.stated["factor"] ** 2
            options = {"min_image_tokens": tokens, "max_image_tokens": tokens}
        made = processor(images=[image], return_tensors="np", **options)
        rows, columns = made["spatial_shapes"][0].tolist()
        return picture_of(made["pixel_values"][0], rows, columns)[None]

    def reference_features(
        self, tower: Any, connector: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> ReferenceFeatures:
        """Features as `Lfm2VlModel.get_image_features` takes them."""
        edge = spec.vision.config.patch_size
        rows, columns = (length // edge for length in pixel_values.shape[2:])
        patches = torch.from_numpy(patches_of(pixel_values[0].numpy(), edge))[None]
        output = tower(
            pixel_values=patches,
            pixel_attention_mask=torch.ones((1, rows * columns), dtype=torch.int32),
            spatial_shapes=torch.tensor([[rows, columns]]),
        )
        features = output.last_hidden_state
        projected = connector(features.view(1, rows, columns, -1))
        return ReferenceFeatures(features[0], projected.flatten(0, 2))


def _marked(marks: tuple[str, ...], image_token: str, grid: TileGrid) -> str:
    """As LFM2-VL's processor writes a picture of one tile."""
    before, after = marks
    return f"{before}{image_token}{after}"
