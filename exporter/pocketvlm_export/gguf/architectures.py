"""Knows which decoders can be written as GGUF, and what sets one of llama.cpp's architectures apart
from another."""

from dataclasses import dataclass

import gguf

from pocketvlm.decoders import gguf_header
from pocketvlm.errors import CheckpointError
from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.gguf.rope import Sections, has_sections, needs_factors

_ACTIVATION = "silu"  # llama.cpp has it built into these architectures


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures.

    Attributes:
        name: what GGUF files call it.
        interleaved: rotary embedding turns neighbouring pairs of a head's dimensions, where
            transformers turns its two halves: rows of queries and keys are reordered.
        rope_factors: it reads a tensor of factors, one a frequency.
        free_heads: heads need not add up to the hidden size.
        sections: frequencies are shared out among time, rows and columns (M-RoPE), in blocks or in
            turns.
        extras: further features are added behind its first layers (DeepStack).
    """

    name: gguf.MODEL_ARCH
    interleaved: bool
    rope_factors: bool
    free_heads: bool
    sections: Sections | None = None
    extras: bool = False


_LLAMA = Architecture(gguf.MODEL_ARCH.LLAMA, interleaved=True, rope_factors=True, free_heads=True)
_QWEN2VL = Architecture(
    gguf.MODEL_ARCH.QWEN2VL,
    interleaved=False,
    rope_factors=False,
    free_heads=False,
    sections="blocks",
)
# By the decoder's model_type; a new one is a line here, where tests show that it answers as
# transformers does.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture(
        gguf.MODEL_ARCH.QWEN2, interleaved=False, rope_factors=False, free_heads=False
    ),
    "qwen3": Architecture(
        gguf.MODEL_ARCH.QWEN3, interleaved=False, rope_factors=False, free_heads=True
    ),
    "qwen2_vl_text": _QWEN2VL,
    "qwen2_5_vl_text": _QWEN2VL,
    "qwen3_vl_text": Architecture(
        gguf.MODEL_ARCH.QWEN3VL,
        interleaved=False,
        rope_factors=False,
        free_heads=True,
        sections="turns",
        extras=True,
    ),
}


def architecture(spec: DecoderSpec) -> Architecture:
    """Return how a decoder is written; raises `CheckpointError` where llama.cpp would compute
    something else."""
    config = spec.config
    arch = ARCHITECTURES.get(config.model_type)
    if arch is None:
        raise CheckpointError(
            f"a {config.model_type} decoder cannot be written as GGUF",
            expected=f"one of {', '.join(ARCHITECTURES)}",
            advice="export it with --decoder onnx",
            setting="decoder",
        )
    problems = {
        f"hidden_act is {config.hidden_act}, llama.cpp has {_ACTIVATION}": config.hidden_act
        != _ACTIVATION,
        f"its heads make {config.num_attention_heads * spec.head_dim} of a hidden size of "
        f"{spec.hidden}": (
            not arch.free_heads and config.num_attention_heads * spec.head_dim != spec.hidden
        ),
        f"its rope is scaled by {config.rope_parameters}": not arch.rope_factors
        and needs_factors(config),
        f"its rope is {config.rope_parameters}, llama.cpp shares out {spec.head_dim // 2} plain "
        "frequencies among time, rows and columns": (
            arch.sections is not None and not has_sections(config, spec.head_dim, arch.sections)
        ),
        f"it reads further features {', '.join(spec.extras)}": bool(spec.extras)
        and not arch.extras,
        f"it reads further features behind {len(spec.extras)} of {spec.layers} layers, llama.cpp "
        "adds none behind the last": arch.extras and len(spec.extras) >= spec.layers,
        f"its positions are {spec.positions}, llama.cpp's "
        f"{gguf.MODEL_ARCH_NAMES[arch.name]} has {_positions(arch)}": (
            spec.positions != _positions(arch)
        ),
    }
    for problem, present in problems.items():
        if present:
            raise CheckpointError(
                f"this {config.model_type} decoder cannot run in llama.cpp ({problem})",
                advice="export it with --decoder onnx",
                setting="decoder",
            )
    return arch


def _positions(arch: Architecture) -> str:
    """How llama.cpp numbers tokens for it, as the runtime knows it."""
    return gguf_header.ARCHITECTURES[gguf.MODEL_ARCH_NAMES[arch.name]]


def context_length(spec: DecoderSpec) -> int:
    """Return the longest sequence on which llama.cpp computes what the checkpoint does.

    These architectures have no sliding window there; up to the window's length there is no
    difference.
    """
    window = getattr(spec.config, "sliding_window", None)
    layers = getattr(
        spec.config, "layer_types", None
    )  # without this list the window is every layer's
    if window is None or (layers is not None and "sliding_attention" not in layers):
        return spec.context
    return min(spec.context, int(window))
