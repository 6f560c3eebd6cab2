"""LLaVA-OneVision (``model_type: llava_onevision``): a SigLIP tower, LLaVA-NeXT's tiles in up to 36
grids, a Qwen2 decoder.

What to know when it is pruned:

- SigLIP has no [CLS] token: ``scope``, the default, weights patches by received attention. Features
  are the last layer's as they are, without the norm behind it.
- The published checkpoints cut a picture into up to 6 x 6 parts, 27,000 tokens. An export allows
  `DEFAULT_TILES` of them unless ``--max-tiles`` says otherwise, by leaving grids out.
- transformers shrinks the map of more than nine parts' features. With a budget that is left out:
  it would mix the tokens that were chosen.
- Several pictures of a prompt are one square tile each (`pocketvlm.layouts.squared`).
- ``--layout whole`` leaves the parts and newlines out: every picture is one tile, which is all that
  transformers.js can cut. Only where tokens are pruned, for it is nothing that transformers does.

Clips are not read. Published checkpoints read them as frames with a quarter of the features each,
which would be another graph.
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
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import Settings, read_json
from pocketvlm_export.families.base import MOST_EDGE, feature_layers
from pocketvlm_export.families.llava_next import NEWLINE_NAME, LlavaNext, listed_sizes
from pocketvlm_export.families.spec import NEWLINE, LayoutSpec, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

_TOWER = "siglip_vision_model"
_RATIO = "vision_aspect_ratio"
_NEVER_SHRUNK = "anyres_max_1000000"


class LlavaOnevision(LlavaNext):
    """llava-hf/llava-onevision-qwen2-0.5b-ov-hf and its like."""

    model_type: ClassVar[str] = "llava_onevision"
    processor: ClassVar[str] = "LlavaOnevisionProcessor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "llava_onevision", "LlavaOnevisionMultiModalProjector"
    )

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        settings = Settings.of(config)
        _most_tiles(settings)
        image_token = settings.integer("image_token_id", least=0)
        spec = VLMSpec(self, config, _vision(config), decoder_spec(config), image_token)
        return self.with_pinpoints(spec, listed_sizes(settings))

    def layouts(self, pinpoints: list[list[int]], spec: VLMSpec) -> Mapping[str, LayoutSpec]:
        """See `LlavaNext.layouts`."""
        most = _most_tiles(Settings.of(spec.config))
        cut = LayoutSpec(
            {"name": "anyres-max", "pinpoints": pinpoints, "most_tiles": most},
            constants=(NEWLINE_NAME,),
            order=_packed,
        )
        several = replace(cut, stated={"name": "squared", "newline": True})
        whole = LayoutSpec({"name": "single"}, exact=False, stock_clients=True)
        return {"hf": replace(cut, several=several), "whole": whole}

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """See `LlavaNext.read_processor`; and the limit of features, which the processor counts
        by."""
        own = _most_tiles(Settings.of(spec.config))
        stated = _most_tiles(_stated(folder))
        if own != stated:
            raise CheckpointError(
                f"the processor in {folder} counts the features of {stated} tiles at most, the "
                f"model packs those of {own}: the two configurations are of two models",
                advice="give the processor of this model",
            )
        return super().read_processor(spec, folder)

    def tokens_counted(self, spec: VLMSpec, stated: Settings) -> int | None:
        """See `Family.tokens_counted`."""
        if stated.stated("num_image_tokens") is None:
            return None
        is_default = stated.stated("vision_feature_select_strategy") == "default"
        return stated.integer("num_image_tokens") - int(is_default)

    def processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec, budget: int
    ) -> dict[str, Any]:
        """See `Family.processor_config`: it counts all tokens, and has no words for fewer. Where a
        picture is one tile there are those of LLaVA's, by which transformers.js counts."""
        defaults = {
            "processor_class": self.processor,
            "image_token": self.place,
            "num_image_tokens": spec.vision.tokens,
            "vision_feature_select_strategy": "full",
            _RATIO: spec.config.vision_aspect_ratio,
        }
        of_llava = {
            "patch_size": int(spec.vision.config.patch_size),
            "num_additional_image_tokens": budget - spec.vision.tokens,
        }
        counted = {"num_image_tokens": spec.vision.tokens} if spec.vision.made_for else {}
        return {**defaults, **stated, **counted, **(of_llava if layout.stock_clients else {})}

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """See `Family.image_processor_config`; transformers.js has no processor of this family's
        name, and LLaVA's does the same with one tile."""
        config = super().image_processor_config(stated, spec, layout)
        if not layout.stock_clients:
            return config
        height, width = spec.vision.tile_size
        size = {"height": height, "width": width}
        one_tile = {"do_center_crop": False, "do_pad": False, "size": size}
        return {**config, **one_tile, "processor_class": "LlavaProcessor"}

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """See `Family.reference_pixels`: a list within the list is the pictures of one prompt. The
        first tile of a picture is the whole of it."""
        pixels = np.asarray(processor(images=[list(images)], return_tensors="np")["pixel_values"])
        reshaped: npt.NDArray[np.float32] = pixels.reshape(-1, *pixels.shape[-3:])
        return reshaped[:1] if layout.stock_clients else reshaped


def _vision(config: Any) -> VisionSpec:
    tower, settings = config.vision_config, Settings.of(config).section("vision_config")
    if settings.text("model_type") != _TOWER:
        raise CheckpointError(
            f"the vision tower is a {tower.model_type}, which is not supported",
            advice=f"use a checkpoint with a {_TOWER} tower",
        )
    if config.vision_feature_select_strategy != "full":
        raise CheckpointError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} drops the "
            "first patch of a tower that has no [CLS], which is not supported",
            advice="export a checkpoint that uses 'full'",
        )
    layers = feature_layers(config.vision_feature_layer, settings.integer("num_hidden_layers"))
    side, patch = settings.integer("image_size", most=MOST_EDGE), settings.integer("patch_size")
    if patch > side:
        raise settings.refusal("patch_size", f"at most image_size, which is {side}")
    tokens = (side // patch) ** 2
    return VisionSpec(
        tower, (side, side), tokens, has_cls=False, feature_layers=layers, normed=False
    )


def _most_tiles(settings: Settings) -> int:
    """How many tiles' features a picture's parts may have, of the name of a way to cut pictures."""
    ratio = settings.text(_RATIO, "anyres_max_9")
    matched = re.fullmatch(r"anyres_max_([1-9]\d{0,2})", ratio)
    if matched is None:
        raise settings.refusal(_RATIO, "anyres_max_ and a number, as in anyres_max_9")
    return int(matched[1])


def _stated(folder: Path) -> Settings:
    return Settings(read_json(folder / "processor_config.json"), "processor_config.json")


def _packed(config: Any, tiles: int, tokens: int, size: tuple[int, int]) -> list[int]:
    """As transformers packs features, done to the numbers of tokens instead. What it shrinks has no
    such order: there the layout is compared with it by the tests alone."""
    numbers = torch.arange(tiles * tokens, dtype=torch.float32).reshape(tiles, tokens, 1)
    packed = upstream.pack_onevision_features(
        config, numbers, size, torch.tensor([float(NEWLINE)]), _NEVER_SHRUNK
    )
    return [int(number) for number in packed[:, 0]]
