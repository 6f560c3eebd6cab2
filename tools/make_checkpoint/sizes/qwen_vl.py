"""Knows the dimensions of the checkpoints of Qwen2-VL and 2.5-VL that are written file by file."""

from make_checkpoint import qwen_vl
from make_checkpoint.hub import HubPreset
from make_checkpoint.presets import CALM
from make_checkpoint.sizes.tiny import TINY_TEXT

_TINY_QWEN_TEXT = {
    **qwen_vl.TEXT,
    **TINY_TEXT,
    "max_window_layers": 3,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},  # half of 16, a head's width
}

# Keys that both towers of Qwen's have.
_PATCHES = {
    "in_chans": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
}

_WINDOWS = {"hidden_act": "silu", **_PATCHES, "window_size": 112, "tokens_per_second": 2}

_TINY_QWEN2_VL = HubPreset(
    "qwen2_vl",
    {
        "depth": 3,
        "embed_dim": 32,
        "mlp_ratio": 2,
        "num_heads": 2,
        "hidden_size": 64,
        **_PATCHES,
    },
    _TINY_QWEN_TEXT,
    pictures=qwen_vl.PICTURES,
    model=qwen_vl.MODEL,
    generation={
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.1,
        "top_p": 0.001,
        "top_k": 1,
        "transformers_version": "4.37.0",
    },
    ties=True,
)

_TINY_QWEN25_VL = HubPreset(
    "qwen2_5_vl",
    {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1, 3],
        **_WINDOWS,
    },
    _TINY_QWEN_TEXT,
    pictures=qwen_vl.PICTURES,
    model=qwen_vl.MODEL,
    generation={
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.000001,
        "transformers_version": "4.49.0",
    },
    ties=True,
)

PRESETS: dict[str, HubPreset] = {
    "tiny-qwen2-vl": _TINY_QWEN2_VL,
    "tiny-qwen2.5-vl": _TINY_QWEN25_VL,
    # The dimensions of Qwen/Qwen2.5-VL-3B-Instruct.
    "qwen2.5-vl-3b": _TINY_QWEN25_VL.but(
        vision={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        text={
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 128000,
            "max_window_layers": 70,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        },
        **CALM,
    ),
}
