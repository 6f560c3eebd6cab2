"""InternVL (``internvl``, the ``-hf`` checkpoints): an InternViT tower, squares of patches made one
token, a Qwen2, Qwen3 or Llama decoder.

What to know when they are pruned:

- The tower has a [CLS] token, and ranking patches by its attention works badly. With InternVL2-26B
  and 5 % of the tokens, 26.6 points were reported where random patches gave 42.9 (FasterVLM's
  repository, issue 4). Methods that may choose weight patches by the attention that they receive
  instead; ``fastervlm`` is allowed, with a warning.
- A picture is cut into as many as 12 parts by the checkpoint's own settings, and the whole. An
  export allows `DEFAULT_TILES` unless ``--max-tiles`` says otherwise.
- The processor cuts pictures whatever ``crop_to_patches`` in its files says: it asks for that when
  it is called. The artifact's files say what is done.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError
from pocketvlm.layouts import TileGrid
from pocketvlm_export import upstream
from pocketvlm_export.caps import Caps
from pocketvlm_export.checkpoint import Settings, image_processor, load_tokenizer, text_ids
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.assembly import with_changes
from pocketvlm_export.families.base import MOST_EDGE, Family, feature_layers
from pocketvlm_export.families.spec import LayoutSpec, ReferenceFeatures, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

# What the tokenizer calls the tokens around a picture, and what they are where it names none.
_MARKS = {"start_image_token": "<img>", "end_image_token": "</img>"}
_MIN, _MAX = "min_patches", "max_patches"  # tiles, in the processor's words
_PROCESSOR_DEFAULTS = {_MIN: 1, _MAX: 12}
_WHOLE = 1e-6  # ratios such as 1/3 are stored rounded


class InternVL(Family):
    """InternVL3 and its like."""

    model_type: ClassVar[str] = "internvl"
    processor: ClassVar[str] = "InternVLProcessor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "internvl", "InternVLMultiModalProjector"
    )
    rules: ClassVar[Sequence[tuple[re.Pattern[str], str]]] = [
        (re.compile(r"^(model\.)?vision_tower\."), "vision_tower."),
        (re.compile(r"^(model\.)?multi_modal_projector\."), "projector."),
        (re.compile(r"^(language_model\.model|model\.language_model)\."), "decoder.model."),
        (re.compile(r"^(language_model\.)?lm_head\."), "decoder.lm_head."),
    ]
    caps: ClassVar[frozenset[str]] = frozenset({"max_tiles"})
    count_key: ClassVar[str] = "image_seq_length"
    place_key: ClassVar[str] = "context_image_token"
    place: ClassVar[str] = "<IMG_CONTEXT>"

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        image_token = Settings.of(config).integer("image_token_id", least=0)
        return VLMSpec(self, config, _vision(config), decoder_spec(config), image_token)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """How pictures are cut, and the ids of the tokens around them."""
        tiles = _tiles(image_processor(folder))
        tokenizer = load_tokenizer(folder)
        before, after = (
            str(getattr(tokenizer, key, None) or token) for key, token in _MARKS.items()
        )
        around = [text_ids(tokenizer, text) for text in (before, after)]
        if any(len(ids) != 1 for ids in around):
            raise CheckpointError(
                f"the tokenizer in {folder} has no tokens {before} and {after}",
                advice="give the whole checkpoint, with the tokenizer's added tokens",
            )
        options = {**tiles, "before": around[0], "after": around[1]}
        return _with_layout(spec, options, partial(_marked, before, after))

    def capped(self, spec: VLMSpec, caps: Caps) -> VLMSpec:
        """Cut pictures into fewer parts; the whole picture's tile is not counted."""
        spec = super().capped(spec, caps)
        (layout,) = spec.layouts.values()
        least, own = layout.stated["min_tiles"], layout.stated["max_tiles"]
        most = self.parts_allowed(caps, least, own)
        options = {name: value for name, value in layout.stated.items() if name != "name"}
        return replace(
            _with_layout(spec, {**options, "max_tiles": most}, layout.text),
            caps=Caps(max_tiles=most),
        )

    def warnings(self, spec: VLMSpec, pruner: str, reads: Collection[str]) -> Sequence[str]:
        """What [CLS] is worth here."""
        if "cls_row" not in reads:
            return ()
        return (
            f"{pruner} ranks patches by what [CLS] attends to, and InternViT's [CLS] ranks them "
            "worse than chance (26.6 points against 42.9 for random patches, InternVL2-26B at 5 % "
            "of the tokens); scope weights them by received attention by default here",
        )

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """See `Family.load_connector`."""
        ratio = spec.config.downsample_ratio
        return _ShuffledProjector(self.load_projector(weights, spec), ratio).eval()

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return it with the tiles that are cut."""
        config = super().image_processor_config(stated, spec, layout)
        most = layout.stated["max_tiles"]
        return {**config, "crop_to_patches": True, _MAX: most}

    def reference_features(
        self, tower: Any, connector: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> ReferenceFeatures:
        """Features as `InternVLModel.get_image_features` takes them."""
        called = {**spec.vision.called_with, "output_hidden_states": True}
        output = tower(pixel_values, **called)
        listed = spec.config.vision_feature_layer
        state = output.last_hidden_state if listed == -1 else output.hidden_states[listed]
        features = state[:, 1:]
        return ReferenceFeatures(features[0], connector(features)[0], layers=spec.vision.depth)


class _ShuffledProjector(nn.Module):
    """transformers' pixel shuffle and projector: (B, patches, C) -> (B, N, decoder hidden)."""

    def __init__(self, projector: nn.Module, ratio: float) -> None:
        super().__init__()
        self.projector = projector
        self.ratio = ratio

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As `InternVLModel.get_image_features` continues."""
        shuffle = upstream.model_class("internvl", "InternVLModel").pixel_shuffle
        side = int(features.shape[1] ** 0.5)
        squares = features.reshape(features.shape[0], side, side, -1)
        shuffled = shuffle(None, squares, scale_factor=self.ratio)
        projected: torch.Tensor = self.projector(
            shuffled.reshape(features.shape[0], -1, shuffled.shape[-1])
        )
        return projected


def _tiles(stated: Mapping[str, Any]) -> dict[str, int]:
    """The least and the most tiles that an image processor cuts a picture into; it takes its own
    defaults where it states nothing."""
    least, most = (
        default if stated.get(name) is None else stated[name]
        for name, default in _PROCESSOR_DEFAULTS.items()
    )
    if type(least) is not int or type(most) is not int or not 1 <= least <= most:
        raise CheckpointError(
            f"the image processor cuts pictures into {least!r} to {most!r} tiles",
            expected=f"whole numbers, {_MIN} at most {_MAX}",
            advice="correct preprocessor_config.json",
        )
    return {"min_tiles": least, "max_tiles": most}


def _vision(config: Any) -> VisionSpec:
    # Only one tower is read, whatever a configuration calls it.
    tower = with_changes(config.vision_config, model_type="internvl_vision")
    whole_model = Settings.of(config)
    settings, ratio = whole_model.section("vision_config"), whole_model.number("downsample_ratio")
    size, patch = (_height_width(settings, key) for key in ("image_size", "patch_size"))
    merge = round(1 / ratio) if 0 < ratio <= 1 else 0
    edge = patch[0] * merge
    whole = merge > 0 and abs(merge * ratio - 1) < _WHOLE
    if not whole or size[0] != size[1] or patch[0] != patch[1] or size[0] % edge:
        raise CheckpointError(
            f"image_size {size}, patch_size {patch} and downsample_ratio {ratio} do not make whole "
            "squares of patches",
            advice="give a checkpoint where image_size / patch_size x downsample_ratio is whole",
        )
    if config.vision_feature_select_strategy != "default":
        raise CheckpointError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} feeds [CLS] "
            "to the decoder, which is not supported",
            advice="export a checkpoint that uses 'default'",
        )
    layers = feature_layers(config.vision_feature_layer, settings.integer("num_hidden_layers"))
    if len(layers) != 1:
        raise CheckpointError(
            f"vision_feature_layer {config.vision_feature_layer} lists several layers",
            expected="one, as transformers reads it",
        )
    if config.vision_feature_layer != -1 and not tower.use_mean_pooling:
        raise CheckpointError(
            f"vision_feature_layer {config.vision_feature_layer} is read before the norm behind "
            "the last layer, which is not supported",
            advice="export a checkpoint that uses -1, or one with use_mean_pooling",
        )
    return VisionSpec(
        tower,
        size,
        (size[0] // edge) ** 2,
        has_cls=True,
        feature_layers=layers,
        merge=merge,
        cls_ranks=False,
    )


def _height_width(settings: Settings, key: str) -> tuple[int, int]:
    edges = settings.integers(key, least=1, most=MOST_EDGE)
    if len(edges) != 2:
        raise settings.refusal(key, "a height and a width")
    return edges[0], edges[1]


def _with_layout(
    spec: VLMSpec, options: Mapping[str, Any], text: Callable[[str, TileGrid], str] | None
) -> VLMSpec:
    layout = LayoutSpec({"name": "tiles", **options}, text=text)
    return replace(spec, layouts={"hf": layout})


def _marked(before: str, after: str, image_token: str, grid: TileGrid) -> str:
    """As InternVL's processor writes a picture: nothing between its tiles."""
    return f"{before}{image_token * grid.tiles}{after}"
