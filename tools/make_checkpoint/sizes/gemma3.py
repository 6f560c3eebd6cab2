"""Knows the dimensions of the checkpoints of Gemma 3 that are written file by file."""

from make_checkpoint import gemma3
from make_checkpoint.hub import HubPreset
from make_checkpoint.sizes.tiny import TINY_TEXT

_TINY_GEMMA3 = HubPreset(
    "gemma3",
    {
        "hidden_size": 32,
        "image_size": 112,
        "intermediate_size": 48,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "patch_size": 7,  # 256 patches, of which squares of four by four make 16 tokens
        "vision_use_head": False,
    },
    {
        **TINY_TEXT,
        "head_dim": 16,
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 16,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        # Every third layer attends to all, where it is every sixth of the published one.
        "sliding_window": 24,
        "sliding_window_pattern": 3,
        "vocab_size": 576,
    },
    pictures={**gemma3.PICTURES, "size": {"height": 112, "width": 112}},
    model={**gemma3.MODEL, "mm_tokens_per_image": 16},
    generation=gemma3.GENERATION,
    ties=True,
)

PRESETS: dict[str, HubPreset] = {
    "tiny-gemma3": _TINY_GEMMA3,
}
