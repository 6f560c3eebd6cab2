"""Knows the dimensions of the checkpoints of Qwen3-VL that are written file by file."""

from make_checkpoint import qwen3_vl
from make_checkpoint.hub import HubPreset
from make_checkpoint.presets import CALM
from make_checkpoint.sizes.tiny import TINY_TEXT

_TINY_QWEN3_VL = HubPreset(
    "qwen3_vl",
    {
        **qwen3_vl.VISION,
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    },
    {
        **qwen3_vl.TEXT,
        **TINY_TEXT,
        "num_hidden_layers": 4,  # one more than read further features, which llama.cpp needs
        "head_dim": 32,  # heads do not make the hidden size in the published model's relatives
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [6, 5, 5],
            "rope_type": "default",
        },
    },
    pictures=qwen3_vl.PICTURES,
    model=qwen3_vl.MODEL,
    generation=qwen3_vl.GENERATION,
    ties=True,
)

PRESETS: dict[str, HubPreset] = {
    "tiny-qwen3-vl": _TINY_QWEN3_VL,
    # The dimensions of Qwen/Qwen3-VL-2B-Instruct.
    "qwen3-vl-2b": _TINY_QWEN3_VL.but(
        vision={
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        text={
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [24, 20, 20],
                "rope_type": "default",
            },
        },
        **CALM,
    ),
}
