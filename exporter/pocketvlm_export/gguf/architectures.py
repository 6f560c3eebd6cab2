"""Knows which decoders can be written as GGUF, and what sets one of llama.cpp's architectures apart
from another."""

from dataclasses import dataclass

import gguf

from pocketvlm.artifact.specs import PROMPT
from pocketvlm.decoders import gguf_header
from pocketvlm.errors import CheckpointError
from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.gguf.rope import Sections, has_sections, needs_factors
from pocketvlm_export.gguf.windows import has_windows

_LAYERS_OF_27B = 62  # by which llama.cpp knows Gemma 3 27B, see `Architecture.own_scale`


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
        activation: of its MLP, by transformers' name.
        windows: every so many layers one attends to all tokens, and the others within a window,
            with frequencies of their own.
        norm_offset: what is added to the weights of norms, which transformers adds when it runs.
        own_scale: products of queries and keys are scaled by the width of a head, whatever the
            checkpoint states; of the 27B by hidden size over heads.
        rounds: llama.cpp looks the activation up in a table of float16, so no file of it is exact.
            Measured were 3e-4 of the largest logit, and 3e-5 where transformers rounds likewise.
    """

    name: gguf.MODEL_ARCH
    interleaved: bool
    rope_factors: bool
    free_heads: bool
    sections: Sections | None = None
    extras: bool = False
    activation: str = "silu"
    windows: bool = False
    norm_offset: float = 0.0
    own_scale: bool = False
    rounds: bool = False


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
    "lfm2": Architecture(
        gguf.MODEL_ARCH.LFM2, interleaved=False, rope_factors=False, free_heads=True
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture(
        gguf.MODEL_ARCH.QWEN2, interleaved=False, rope_factors=False, free_heads=False
    ),
    "qwen3": Architecture(
        gguf.MODEL_ARCH.QWEN3, interleaved=False, rope_factors=False, free_heads=True
    ),
    "gemma3_text": Architecture(
        gguf.MODEL_ARCH.GEMMA3,
        interleaved=False,
        rope_factors=False,
        free_heads=True,
        activation="gelu_pytorch_tanh",
        windows=True,
        norm_offset=1.0,
        own_scale=True,
        rounds=True,
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
    if spec.attention == PROMPT:
        raise CheckpointError(
            f"this {config.model_type} decoder cannot run in llama.cpp (all tokens of a prompt "
            "attend to each other, and llama.cpp reads text and pictures separately)",
            advice="export it with --decoder onnx",
            setting="decoder",
        )
    arch = ARCHITECTURES.get(config.model_type)
    if arch is None:
        raise CheckpointError(
            f"a {config.model_type} decoder cannot be written as GGUF",
            expected=f"one of {', '.join(ARCHITECTURES)}",
            advice="export it with --decoder onnx",
            setting="decoder",
        )
    activation = getattr(config, "hidden_activation", None) or getattr(
        config,
        "hidden_act",
        arch.activation,  # where it is not stated it is built in
    )
    scaled_by = getattr(config, "query_pre_attn_scalar", spec.head_dim)
    # As llama.cpp has it for the largest of the kind.
    largest = spec.layers == _LAYERS_OF_27B
    their_scale = spec.hidden // spec.heads if largest else spec.head_dim
    problems = {
        f"hidden_act is {activation}, llama.cpp has {arch.activation}": (
            activation != arch.activation
        ),
        f"query_pre_attn_scalar is {scaled_by}, llama.cpp has {their_scale}": (
            arch.own_scale and scaled_by != their_scale
        ),
        "its windows are not of the kind that llama.cpp has: every layer but one of so many, with "
        "plain frequencies in them": arch.windows and not has_windows(config),
        "its convolutions have biases": bool(getattr(config, "conv_bias", False)),
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


def rounds(name: str) -> bool:
    """Whether one of llama.cpp's architectures, by its name in a file, is `Architecture.rounds`."""
    return any(
        each.rounds and gguf.MODEL_ARCH_NAMES[each.name] == name for each in ARCHITECTURES.values()
    )


def context_length(spec: DecoderSpec) -> int:
    """Return the longest sequence on which llama.cpp computes what the checkpoint does.

    Most architectures have no sliding window there; up to the window's length there is no
    difference.
    """
    if ARCHITECTURES[spec.config.model_type].windows:
        return spec.context
    window = getattr(spec.config, "sliding_window", None)
    layers = getattr(
        spec.config, "layer_types", None
    )  # without this list the window is every layer's
    if window is None or (layers is not None and "sliding_attention" not in layers):
        return spec.context
    return min(spec.context, int(window))
