"""LLaVA (``model_type: llava``): a CLIP or DINOv2 tower, a two-layer projector, a Llama, Mistral or
Qwen decoder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import Settings, image_processor
from pocketvlm_export.families.base import MOST_EDGE, Family, feature_layers
from pocketvlm_export.families.spec import LayoutSpec, ReferenceFeatures, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec
from pocketvlm_export.towers import TOWERS

# Each has a [CLS] token, and no norm behind its layers that LLaVA would read past.
_VISION_TOWERS = ("clip_vision_model", "dinov2")
_WITHOUT_CLS = {"pixtral", "siglip_vision_model", "siglip2_vision_model"}


class Llava(Family):
    """LLaVA 1.5 and its like."""

    model_type: ClassVar[str] = "llava"
    processor: ClassVar[str] = "LlavaProcessor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class("llava", "LlavaMultiModalProjector")

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        image_token = Settings.of(config).integer("image_token_id", least=0)
        return VLMSpec(self, config, _vision(config), decoder_spec(config), image_token)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """The size of pictures, where the tower reads any."""
        if not TOWERS[spec.vision.config.model_type].interpolates:
            return spec
        size = _made_size(Settings(image_processor(folder, self.medium), "the image processor"))
        if size is None:
            return spec
        rows, columns = (edge // int(spec.vision.config.patch_size) for edge in size)
        if not rows * columns:
            raise CheckpointError(
                f"the image processor in {folder} makes pictures of {size[0]}x{size[1]} pixels",
                expected=f"at least one patch of {spec.vision.config.patch_size} pixels",
            )
        return replace(spec, vision=replace(spec.vision, image_size=size, tokens=rows * columns))

    def square(self, settings: Settings) -> bool:
        """See `Family.square`: so are those that it cuts out of each picture."""
        return settings.boolean("do_center_crop", False)

    def tokens_counted(self, spec: VLMSpec, stated: Settings) -> int | None:
        """Patches, what comes beside them, and [CLS] taken off where the strategy is "default"."""
        if stated.stated("patch_size") is None:
            return None
        height, width = spec.vision.tile_size
        edge = stated.integer("patch_size")
        beside = stated.integer("num_additional_image_tokens", 0, least=0)
        is_default = stated.stated("vision_feature_select_strategy") == "default"
        return (height // edge) * (width // edge) + beside - int(is_default)

    def processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec, budget: int
    ) -> dict[str, Any]:
        """Return the default budget in the terms of LLaVA's processor: patches, plus a correction
        that may be negative.

        These terms have no words for pictures in tiles: there the checkpoint's own values stay,
        which count all tokens.
        """
        defaults = {
            "processor_class": self.processor,
            "image_token": "<image>",
            "patch_size": int(spec.vision.config.patch_size),
        }
        pruned = {
            "vision_feature_select_strategy": "full",
            "num_additional_image_tokens": budget - spec.vision.tokens,
        }
        return {**defaults, **stated, **(pruned if layout.stock_clients else {})}

    def reference_features(
        self, tower: Any, connector: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> ReferenceFeatures:
        """Features as `LlavaModel.get_image_features` takes them.

        ``hidden_states`` has one entry more than there are layers: the embeddings. Counted from the
        start, hidden state i is the output of layer i - 1.
        """
        before = int(spec.vision.has_cls)
        called = {**spec.vision.called_with, "output_hidden_states": True}
        states = tower(pixel_values, **called).hidden_states
        listed = spec.config.vision_feature_layer
        layers = [listed] if isinstance(listed, int) else list(listed)
        features = torch.cat([states[index][:, before:] for index in layers], dim=-1)
        last = layers[-1]
        used = last + len(states) if last < 0 else last
        return ReferenceFeatures(features[0], connector(features)[0], layers=used)


def _made_size(settings: Settings) -> tuple[int, int] | None:
    """(height, width) of every picture that an image processor makes; None where it depends on the
    picture, which is refused later."""
    is_cropped = settings.boolean("do_center_crop", False)
    size = settings.section("crop_size" if is_cropped else "size")
    if not is_cropped and (size.stated("height") is None or size.stated("width") is None):
        return None
    return size.integer("height", most=MOST_EDGE), size.integer("width", most=MOST_EDGE)


def _vision(config: Any) -> VisionSpec:
    tower, settings = config.vision_config, Settings.of(config).section("vision_config")
    if settings.text("model_type") not in _VISION_TOWERS:
        lacks = (
            " and has no [CLS] token to rank patches by" if tower.model_type in _WITHOUT_CLS else ""
        )
        raise CheckpointError(
            f"the vision tower is a {tower.model_type}, which is not supported{lacks}",
            advice=f"use a checkpoint with a {' or '.join(_VISION_TOWERS)} tower",
        )
    depth = settings.integer("num_hidden_layers")
    layers = feature_layers(config.vision_feature_layer, depth)
    if config.vision_feature_select_strategy != "default":
        raise CheckpointError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} feeds [CLS] "
            "to the decoder, which is not supported",
            advice="export a checkpoint that uses 'default'",
        )
    side, patch = settings.integer("image_size", most=MOST_EDGE), settings.integer("patch_size")
    if patch > side:
        raise settings.refusal("patch_size", f"at most image_size, which is {side}")
    return VisionSpec(
        tower, (side, side), (side // patch) ** 2, has_cls=True, feature_layers=layers
    )
