"""Knows the dimensions of the checkpoints of InternVL that are written file by file."""

from typing import Any

from make_checkpoint import internvl
from make_checkpoint.hub import HubPreset
from make_checkpoint.sizes.tiny import TINY_TEXT

_INTERN_TOWER = {
    **internvl.VISION,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": [56, 56],
    "patch_size": [7, 7],  # 64 patches, which downsample_ratio 0.5 makes 16 tokens of
}

# Longer sequences than max_position_embeddings would stretch the frequencies; shorter ones do not.
_STRETCHED = {"rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}}

_INTERN_TEXT = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_cache": True,
    **TINY_TEXT,
}

_QWEN2_WINDOW = {"max_window_layers": 70, "sliding_window": None, "use_sliding_window": False}

# At most 2 x 3 tiles and the thumbnail.
_INTERN_PICTURES = {**internvl.PICTURES, "max_patches": 6, "size": {"height": 56, "width": 56}}


def _internvl(decoder: dict[str, Any]) -> HubPreset:
    return HubPreset(
        "internvl",
        _INTERN_TOWER,
        {**_INTERN_TEXT, **decoder},
        pictures=_INTERN_PICTURES,
        model=internvl.MODEL,
    )


_TINY_INTERNVL = _internvl(
    {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **_QWEN2_WINDOW,
        **_STRETCHED,
    }
)

PRESETS: dict[str, HubPreset] = {
    "tiny-internvl": _TINY_INTERNVL,
    # InternViT-6B's form, which InternVL3-38B and -78B have.
    "tiny-internvl-6b": _TINY_INTERNVL.but(
        vision={"attention_bias": False, "norm_type": "rms_norm", "use_qk_norm": True}
    ),
    # InternVL3.5's decoder.
    "tiny-internvl-qwen3": _internvl(
        {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 32,
            **_QWEN2_WINDOW,
        }
    ),
    # InternLM2 as a Llama, which InternVL2.5-8B and InternVL3-9B have.
    "tiny-internvl-llama": _internvl(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "head_dim": 16,
            **_STRETCHED,
        }
    ),
}
