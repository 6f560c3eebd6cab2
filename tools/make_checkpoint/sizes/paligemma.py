"""Knows the dimensions of the checkpoints of PaliGemma that are written file by file."""

from make_checkpoint import paligemma
from make_checkpoint.hub import HubPreset
from make_checkpoint.sizes.tiny import TINY_TEXT

_SIGLIP = {
    **paligemma.VISION,
    "hidden_size": 32,
    "image_size": 42,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 7,  # 36 patches, each of them a token
}

_TINY_PALIGEMMA = HubPreset(
    "paligemma",
    _SIGLIP,
    {
        **paligemma.GEMMA2,
        **TINY_TEXT,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,  # fewer than a picture's tokens, where it is 4096 as published
        "vocab_size": paligemma.VOCABULARY,
    },
    pictures=paligemma.PICTURES,
    model={"num_hidden_layers": 3, "transformers_version": "4.46.0.dev0"},
    generation={"cache_implementation": "hybrid", "transformers_version": "4.46.0.dev0"},
    ties=True,
    embedding=0.05,
    norm=0.0,
)

_TINY_PALIGEMMA_1 = HubPreset(
    "paligemma",
    _SIGLIP,
    {
        **paligemma.GEMMA,
        **TINY_TEXT,
        "head_dim": 16,
        "num_key_value_heads": 1,
        "vocab_size": paligemma.VOCABULARY,
    },
    pictures=paligemma.PICTURES,
    model={"transformers_version": "4.41.0.dev0"},
    generation={"transformers_version": "4.41.0.dev0"},
    ties=True,
    embedding=0.05,
    norm=0.0,
)

PRESETS: dict[str, HubPreset] = {
    "tiny-paligemma": _TINY_PALIGEMMA,
    "tiny-paligemma-gemma": _TINY_PALIGEMMA_1,
}
