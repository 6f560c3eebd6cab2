"""Knows the dimensions of the checkpoints of SmolVLM2 that are written file by file."""

from make_checkpoint import smolvlm2
from make_checkpoint.hub import HubPreset
from make_checkpoint.presets import CALM, VOCABULARY

_TINY_SMOLVLM2 = HubPreset(
    "smolvlm",
    {
        **smolvlm2.VISION,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 112,
        "patch_size": 7,  # 256 patches, which scale_factor 4 makes 16 tokens of
    },
    {
        **smolvlm2.TEXT,
        "head_dim": 32,
        "hidden_size": 96,
        "intermediate_size": 128,
        "max_position_embeddings": 1024,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "vocab_size": VOCABULARY,
    },
    pictures=smolvlm2.pictures_of(112),
    model=smolvlm2.MODEL,
    generation={"transformers_version": "4.47.1"},
)

# The dimensions of HuggingFaceTB/SmolVLM2-500M-Video-Instruct; those of the tower that it does not
# state are its class's own.
_SMOLVLM2_500M = HubPreset(
    "smolvlm",
    {
        **smolvlm2.VISION,
        "hidden_size": 768,
        "image_size": 512,
        "num_attention_heads": 12,
        "patch_size": 16,
    },
    {
        **smolvlm2.TEXT,
        "head_dim": 64,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "max_position_embeddings": 8192,
        "num_attention_heads": 15,
        "num_hidden_layers": 32,
        "num_key_value_heads": 5,
        "vocab_size": 49280,
    },
    pictures=smolvlm2.pictures_of(512),
    model=smolvlm2.MODEL,
    generation={"transformers_version": "4.47.1"},
    **CALM,
)

PRESETS: dict[str, HubPreset] = {
    "tiny-smolvlm2": _TINY_SMOLVLM2,
    "smolvlm2-500m": _SMOLVLM2_500M,
}
