"""Writes LLaVA checkpoints with random weights in the real Hugging Face format, tiny or at real dimensions."""

from make_checkpoint.presets import PRESETS, Preset
from make_checkpoint.write import make_checkpoint

__all__ = ["PRESETS", "Preset", "make_checkpoint"]
