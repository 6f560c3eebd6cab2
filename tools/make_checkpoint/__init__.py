"""Writes checkpoints of vision-language models with random weights in the real Hugging Face format,
tiny or at real dimensions."""

from make_checkpoint.hub import HubPreset
from make_checkpoint.hub_presets import HUB_PRESETS
from make_checkpoint.presets import PRESETS, Preset
from make_checkpoint.text import make_tokenizer
from make_checkpoint.write import build_config, make_checkpoint, weight_shapes

__all__ = [
    "HUB_PRESETS",
    "PRESETS",
    "HubPreset",
    "Preset",
    "build_config",
    "make_checkpoint",
    "make_tokenizer",
    "weight_shapes",
]
