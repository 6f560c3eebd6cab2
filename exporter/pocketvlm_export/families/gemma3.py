"""Gemma 3 (``gemma3``): a SigLIP tower, squares of patches averaged to a token, a Gemma decoder in
which the tokens of a picture attend to each other in both directions.

What to know when it is pruned:

- SigLIP has no [CLS] token: methods that rank patches by what it attends to are refused, and
  ``scope``, the default, weights them by received attention.
- A token is the mean of ``side`` x ``side`` patches, 4 x 4 in the published checkpoints. Methods
  rank tokens, and a budget counts those, at most 256 per picture.
- The decoder counts positions on without gaps, whatever was dropped, and its sliding window counts
  what is left: it reads a shorter picture, not one with holes.
- Pan and scan, which shows crops of a picture beside it, is off as published, and refused where a
  checkpoint asks for it.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.artifact.specs import PICTURES, PictureText
from pocketvlm.errors import CheckpointError
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import Settings, image_processor, load_tokenizer
from pocketvlm_export.checkpoint.processor import load_image_processor
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.assembly import with_changes
from pocketvlm_export.families.base import MOST_EDGE, Family
from pocketvlm_export.families.spec import LayoutSpec, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

_TOWER, _DECODER = "siglip_vision_model", "gemma3_text"
_MARKS = ("boi_token", "eoi_token", "image_token")  # of the tokenizer, by the processor's names
# Settings of the decoder that change attention or logits, and are off in every published one.
_OFF = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")


class Gemma3(Family):
    """Gemma 3 with pictures: the 4B, 12B and 27B checkpoints and what was made of them."""

    model_type: ClassVar[str] = "gemma3"
    processor: ClassVar[str] = "Gemma3Processor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "gemma3", "Gemma3MultiModalProjector"
    )
    count_key: ClassVar[str] = "image_seq_length"
    place: ClassVar[str] = "<image_soft_token>"

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        image_token = Settings.of(config).integer("image_token_id", least=0)
        decoder = decoder_spec(config)
        if decoder.config.model_type != _DECODER:
            raise CheckpointError(
                f"the decoder is a {decoder.config.model_type}, which is not supported in gemma3 "
                "checkpoints",
                expected=_DECODER,
            )
        for name in _OFF:
            if getattr(decoder.config, name, None):
                raise CheckpointError(
                    f"{name} {getattr(decoder.config, name)} is not supported in gemma3",
                    expected="null, as in google/gemma-3-4b-it",
                )
        decoder = replace(decoder, attention=PICTURES)
        return VLMSpec(self, config, _vision(config), decoder, image_token)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """See `Family.read_processor`: the text around a picture, and whether pictures are cut."""
        if Settings(image_processor(folder), "the image processor").boolean(
            "do_pan_and_scan", False
        ):
            raise CheckpointError(
                f"the image processor in {folder} shows crops beside each picture "
                "(do_pan_and_scan), which is not supported",
                expected="pictures read whole, as google/gemma-3-4b-it does",
                advice="set do_pan_and_scan to false",
            )
        tokenizer = load_tokenizer(folder)
        begin, end, slot = (getattr(tokenizer, name, None) for name in _MARKS)
        if not (begin and end and slot):
            raise CheckpointError(
                f"the tokenizer in {folder} does not name {', '.join(_MARKS)}",
                advice="give the tokenizer of this model, with its tokenizer_config.json",
            )
        written = _processor(folder, tokenizer, 1).full_image_sequence
        layout = LayoutSpec({"name": "single"}, text=lambda token, grid: str(written))
        text = PictureText(str(begin), f"\n\n{begin}{slot}{end}\n\n")
        return replace(spec, layouts={"single": layout}, picture_text=text)

    def resized(self, spec: VLMSpec, size: tuple[int, int], folder: Path) -> VLMSpec:
        """See `Family.resized`: a token stays the mean of as many patches, so there are fewer or
        more of them."""
        resized = super().resized(spec, size, folder)
        if resized.vision.made_for is None:
            return spec
        config = with_changes(resized.config, mm_tokens_per_image=resized.vision.tokens)
        return replace(resized, config=config)

    def model_config(self, stated: Mapping[str, Any], spec: VLMSpec) -> dict[str, Any]:
        """See `Family.model_config`."""
        config = super().model_config(stated, spec)
        if spec.vision.made_for is None:
            return config
        return {**config, "mm_tokens_per_image": spec.vision.tokens}

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """The projector behind its pooling: it reads the mean of each square already."""
        return _MeanProjector(self.load_connector(weights, spec)).eval()

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """See `Family.load_connector`."""
        return super().load_projector(weights, spec)

    def reference_inputs(
        self,
        model: Any,
        inputs_embeds: torch.Tensor,
        is_visual: npt.NDArray[np.bool_],
        extras: Mapping[str, npt.NDArray[np.float32]],
    ) -> Mapping[str, Any]:
        """See `Family.reference_inputs`: a mask for each kind of layer."""
        masks = upstream.picture_masks(model.config, inputs_embeds, torch.from_numpy(is_visual))
        return {"attention_mask": masks}


class _MeanProjector(nn.Module):
    """A norm and a product: the means of squares (..., C) -> (..., decoder hidden)."""

    def __init__(self, projector: Any) -> None:
        super().__init__()
        self.norm = projector.mm_soft_emb_norm
        self.weight = projector.mm_input_projection_weight

    def forward(self, means: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.matmul(self.norm(means), self.weight)


def _processor(folder: Path, tokenizer: Any, tokens: int) -> Any:
    """transformers' own, whose pictures have so many tokens."""
    return transformers.Gemma3Processor(
        image_processor=load_image_processor(folder), tokenizer=tokenizer, image_seq_length=tokens
    )


def _vision(config: Any) -> VisionSpec:
    settings = Settings.of(config).section("vision_config")
    if settings.text("model_type") != _TOWER:
        raise CheckpointError(
            f"the vision tower is a {settings.text('model_type')}, which is not supported in "
            "gemma3 checkpoints",
            expected=_TOWER,
        )
    edge, patch = (settings.integer(key, most=MOST_EDGE) for key in ("image_size", "patch_size"))
    tokens = Settings.of(config).integer("mm_tokens_per_image", most=MOST_EDGE)
    side, patches = math.isqrt(tokens), edge // patch
    if side**2 != tokens or edge % patch or patches % side:
        raise CheckpointError(
            f"image_size {edge}, patch_size {patch} and mm_tokens_per_image {tokens} do not make "
            "whole squares of patches",
            expected="a picture of n x n tokens, each a square of patches",
            advice="correct config.json",
        )
    depth = settings.integer("num_hidden_layers")
    return VisionSpec(
        config.vision_config,
        (edge, edge),
        tokens,
        has_cls=False,
        feature_layers=(depth,),
        merge=patches // side,
        pool="mean",
    )
