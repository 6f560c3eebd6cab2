"""Knows the dimensions of the checkpoints of LLaVA-OneVision that are written file by file."""

from make_checkpoint import llava_onevision
from make_checkpoint.hub import HubPreset
from make_checkpoint.presets import CALM
from make_checkpoint.sizes.tiny import TINY_TEXT

# As published, a tile's edge is not a multiple of a patch's, and its rows of tokens are odd in
# number.
_TINY_ONEVISION = HubPreset(
    "llava_onevision",
    {
        **llava_onevision.VISION,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 37,
        "patch_size": 7,  # 25 patches
    },
    {**llava_onevision.TEXT, **TINY_TEXT, "max_window_layers": 3},
    pictures=llava_onevision.PICTURES,
    model=llava_onevision.MODEL,
    ties=True,
)

PRESETS: dict[str, HubPreset] = {
    "tiny-llava-onevision": _TINY_ONEVISION,
    # The dimensions of llava-hf/llava-onevision-qwen2-0.5b-ov-hf.
    "llava-onevision-0.5b": _TINY_ONEVISION.but(
        vision={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        text={
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 152000,
            "max_position_embeddings": 32768,
            "max_window_layers": 24,
        },
        **CALM,
    ),
}
