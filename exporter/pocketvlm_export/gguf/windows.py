"""Knows how decoders in which most layers attend within a window are written for llama.cpp."""

from typing import Any

import gguf
from transformers import PretrainedConfig

_FULL, _SLIDING = "full_attention", "sliding_attention"


def has_windows(config: PretrainedConfig) -> bool:
    """Whether the last of every so many layers attends to all tokens and the others within a
    window, where frequencies are not scaled, as llama.cpp has it."""
    rope = config.rope_parameters
    plain = rope.get(_SLIDING, {}).get("rope_type", "default") == "default"
    return plain and _FULL in rope and _period(config) > 0


def add_windows(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    """Write how far a window reaches, which layers have one, and their frequencies' base; see
    `has_windows`."""
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern(_period(config))
    writer.add_rope_freq_base_swa(float(config.rope_parameters[_SLIDING]["rope_theta"]))


def rope_of_all(config: PretrainedConfig) -> dict[str, Any]:
    """The rope parameters of a decoder, of those of its layers that attend to all tokens where
    they differ by kind of layer."""
    rope: dict[str, Any] = config.rope_parameters
    own = rope.get(_FULL)
    return own if isinstance(own, dict) else rope


def _period(config: PretrainedConfig) -> int:
    """After how many layers one attends to all tokens; 0 where they follow no such pattern."""
    kinds = list(config.layer_types)
    period = kinds.index(_FULL) + 1 if _FULL in kinds else len(kinds) + 1
    expected = [_SLIDING if (at + 1) % period else _FULL for at in range(len(kinds))]
    return period if kinds == expected else 0
