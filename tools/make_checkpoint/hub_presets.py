"""Knows the checkpoints that this tool writes file by file, and their dimensions."""

from typing import Any

from make_checkpoint import (
    gemma3,
    internvl,
    lfm2_vl,
    llava_onevision,
    paligemma,
    qwen3_vl,
    qwen_vl,
    smolvlm2,
)
from make_checkpoint.hub import HubFamily, HubPreset
from make_checkpoint.presets import CALM, VOCABULARY

HUB_FAMILIES: dict[str, HubFamily] = {
    "gemma3": gemma3.GEMMA3,
    "internvl": internvl.INTERNVL,
    "lfm2_vl": lfm2_vl.LFM2_VL,
    "llava_onevision": llava_onevision.LLAVA_ONEVISION,
    "paligemma": paligemma.PALIGEMMA,
    "qwen2_vl": qwen_vl.QWEN_VL,
    "qwen2_5_vl": qwen_vl.QWEN_VL,
    "qwen3_vl": qwen3_vl.QWEN3_VL,
    "smolvlm": smolvlm2.SMOLVLM2,
}

_TINY_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
}
_TINY_QWEN_TEXT = {
    **qwen_vl.TEXT,
    **_TINY_TEXT,
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
    **_TINY_TEXT,
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
        **_TINY_TEXT,
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
        **_TINY_TEXT,
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
        **_TINY_TEXT,
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
        **_TINY_TEXT,
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
        **_TINY_TEXT,
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

# A tile's edge is no multiple of a patch's, and its rows of tokens are odd in number, as published.
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
    {**llava_onevision.TEXT, **_TINY_TEXT, "max_window_layers": 3},
    pictures=llava_onevision.PICTURES,
    model=llava_onevision.MODEL,
    ties=True,
)

HUB_PRESETS: dict[str, HubPreset] = {
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
    "tiny-gemma3": _TINY_GEMMA3,
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
    "tiny-paligemma": _TINY_PALIGEMMA,
    "tiny-paligemma-gemma": _TINY_PALIGEMMA_1,
    "tiny-qwen2-vl": _TINY_QWEN2_VL,
    "tiny-qwen2.5-vl": _TINY_QWEN25_VL,
    "tiny-smolvlm2": _TINY_SMOLVLM2,
    "smolvlm2-500m": _SMOLVLM2_500M,
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
