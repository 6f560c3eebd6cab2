"""Knows how rotary position embeddings and their scaling are written for llama.cpp."""

import math
from typing import Literal

import gguf
import torch
from transformers import PretrainedConfig

from pocketvlm.limits import is_int
from pocketvlm_export import upstream
from pocketvlm_export.gguf.windows import rope_of_all

# How frequencies are shared out among time, rows and columns (M-RoPE): in three blocks, or one
# after another in turns, as long as rows and columns have any left.
Sections = Literal["blocks", "turns"]
_SECTIONS = 3  # time, rows, columns
# Those that rows and columns leave over turn by time, and in llama.cpp not at all. That is no more
# than rounding if they are as slow as this, in radians per token.
_SLOW = 1e-5
_BETAS = {"beta_fast": 32, "beta_slow": 1}  # the only ones llama.cpp has for these architectures


def add_rope(
    writer: gguf.GGUFWriter, config: PretrainedConfig, head_dim: int, *, sections: bool
) -> None:
    """Write the frequencies' base and their scaling, as far as a few numbers say it; see
    `rope_factors`. With ``sections`` also how many turn by time, by row and by column."""
    rope, kind = rope_of_all(config), _kind(config)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if sections:
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        _add_yarn(writer, config)


def needs_factors(config: PretrainedConfig) -> bool:
    """Whether llama.cpp needs a tensor of factors, because a few numbers do not give it the same
    frequencies."""
    rope, kind = rope_of_all(config), _kind(config)
    if kind != "yarn":
        return kind == "llama3"
    return not rope.get("truncate", True) or any(
        (rope.get(name) or value) != value for name, value in _BETAS.items()
    )


def has_sections(config: PretrainedConfig, head_dim: int, kind: Sections) -> bool:
    """Whether plain frequencies are shared out among time, rows and columns (M-RoPE, arXiv
    2409.12191) in this way, all of them, and as llama.cpp does."""
    rope = config.rope_parameters
    sections = rope.get("mrope_section")
    turns = kind == "turns"
    return (
        _kind(config) == "default"
        and bool(rope.get("mrope_interleaved", turns)) == turns
        and isinstance(sections, (list, tuple))
        and len(sections) == _SECTIONS
        and all(is_int(section, least=0) for section in sections)
        and sum(sections) == head_dim // 2
        and not (turns and any(left > _SLOW for left in _left_over(config, head_dim)))
    )


def _left_over(config: PretrainedConfig, head_dim: int) -> list[float]:
    """The frequencies, in radians per token, whose turn it is and whose section is used up."""
    rope = config.rope_parameters
    return [
        rope["rope_theta"] ** (-2 * number / head_dim)
        for number in range(head_dim // 2)
        if number >= _SECTIONS * rope["mrope_section"][number % _SECTIONS]
    ]


def rope_factors(config: PretrainedConfig, head_dim: int) -> torch.Tensor | None:
    """Return what each plain frequency is divided by, float32 (head_dim / 2,); None where llama.cpp
    needs no such tensor."""
    if not needs_factors(config):
        return None
    frequencies, _ = upstream.rope_frequencies(config, _kind(config))
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    factors: torch.Tensor = 1.0 / config.rope_parameters["rope_theta"] ** exponents / frequencies
    return factors


def _add_yarn(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    rope = config.rope_parameters
    original = rope["original_max_position_embeddings"]
    factor = rope.get("factor") or config.max_position_embeddings / original
    _, attention = upstream.rope_frequencies(config, "yarn")
    if not needs_factors(config):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(original)
        # llama.cpp scales queries and keys by the paper's factor then, and by ours on top.
        attention /= 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    if not math.isclose(attention, 1.0):
        writer.add_rope_scaling_attn_factors(attention)


def _kind(config: PretrainedConfig) -> str:
    return str(rope_of_all(config).get("rope_type", "default"))
