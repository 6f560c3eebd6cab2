"""Knows the dimensions of the checkpoints of LFM2-VL that are written file by file."""

from make_checkpoint import lfm2_vl
from make_checkpoint.hub import HubPreset
from make_checkpoint.presets import CALM
from make_checkpoint.sizes.tiny import TINY_TEXT

_TINY_LFM2_VL = HubPreset(
    "lfm2_vl",
    {
        **lfm2_vl.VISION,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_patches": 16,
        "patch_size": 14,
    },
    {
        **lfm2_vl.TEXT,
        **TINY_TEXT,
        **lfm2_vl.widths(64, 96, multiple=16),
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "num_hidden_layers": 4,
        "num_heads": 4,
    },
    # Tokens of 28 x 28 pixels, and tiles of as many as the largest picture has.
    pictures={
        **lfm2_vl.PICTURES,
        "encoder_patch_size": 14,
        "max_image_tokens": 64,
        "max_num_patches": 256,
        "min_image_tokens": 4,
        "tile_size": 224,
    },
    model={**lfm2_vl.MODEL, "projector_hidden_size": 48},
    generation=lfm2_vl.GENERATION,
    ties=True,
)

PRESETS: dict[str, HubPreset] = {
    "tiny-lfm2-vl": _TINY_LFM2_VL,
    # The dimensions of LiquidAI/LFM2-VL-450M.
    "lfm2-vl-450m": _TINY_LFM2_VL.but(
        vision=lfm2_vl.VISION,
        text={
            **lfm2_vl.widths(1024, 6656, multiple=256),
            "layer_types": lfm2_vl.LAYER_TYPES,
            "max_position_embeddings": 128000,
            "num_attention_heads": 16,
            "num_heads": 16,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "vocab_size": 65536,
        },
        pictures=lfm2_vl.PICTURES,
        model=lfm2_vl.MODEL,
        **CALM,
    ),
}
