"""Knows the dimensions of the checkpoints this tool can write; nothing about weights or files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

VOCABULARY = 512  # ids of the tiny presets; the tokenizer fills fewer of them


@dataclass(frozen=True)
class Preset:
    """One checkpoint's shape: keyword arguments of the Hugging Face configuration classes.

    ``vision`` goes to the configuration class of ``tower``, ``text`` to the decoder's own
    configuration class named by ``decoder``, ``llava`` to that of ``family``, ``pictures`` to an
    image processor that cuts pictures by settings of its own. ``residual`` scales what a layer adds
    to its input and ``embedding`` is the embeddings' standard deviation: small ones keep a deep
    decoder as calm as a trained one, whose rounding errors do not grow from layer to layer.
    """

    decoder: Literal["llama", "mistral", "qwen2", "qwen3"]
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    chat: Literal["vicuna", "chatml", "smolvlm", "vicuna-video"] = "vicuna"
    tower: Literal[
        "clip_vision_model", "dinov2", "siglip_vision_model", "idefics3_vision", "smolvlm_vision"
    ] = "clip_vision_model"
    llava: Mapping[str, Any] = field(default_factory=dict)
    family: Literal["llava", "llava_next", "idefics3", "smolvlm", "video_llava"] = "llava"
    pictures: Mapping[str, Any] = field(default_factory=dict)
    residual: float = 1.0
    embedding: float = 0.5

    def but(self, **changes: Any) -> "Preset":
        """Return a copy with mappings (``vision``, ``text`` and so on) merged in and other fields
        replaced."""
        merged: dict[str, Any] = {
            name: {**getattr(self, name), **value} if isinstance(value, Mapping) else value
            for name, value in changes.items()
        }
        return replace(self, **merged)


_TINY_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 42,
    "patch_size": 7,  # 36 patches
    "projection_dim": 32,
}
_TINY_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
}

_TINY_SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 84,
    "patch_size": 7,  # 144 patches, which scale_factor 2 makes 36 tokens of
}
# A picture is cut into 2 x 2 parts at most.
_TINY_TILES: Any = {
    "chat": "smolvlm",
    "llava": {"scale_factor": 2},
    "text": {**_TINY_TEXT, "max_position_embeddings": 512},
    "pictures": {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 84}},
}

_QWEN2_HALF = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
_CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}


def _pinpoints(tile: int) -> list[list[int]]:
    """The grids that the llava-v1.6 checkpoints have, as (height, width) in pixels."""
    grids = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
    return [[rows * tile, columns * tile] for rows, columns in grids]


CALM: Any = {"residual": 0.1, "embedding": 0.1}

PRESETS: dict[str, Preset] = {
    "tiny-llama": Preset("llama", _TINY_TOWER, _TINY_TEXT),
    "tiny-mistral": Preset(
        "mistral", _TINY_TOWER, {**_TINY_TEXT, "num_key_value_heads": 1, "head_dim": 32}
    ),
    "tiny-qwen2": Preset(
        "qwen2", _TINY_TOWER, {**_TINY_TEXT, "tie_word_embeddings": True}, chat="chatml"
    ),
    "tiny-qwen3": Preset(
        "qwen3", _TINY_TOWER, {**_TINY_TEXT, "head_dim": 32, "num_hidden_layers": 3}, chat="chatml"
    ),
    "tiny-dinov2": Preset(
        "llama",
        {
            **{
                k: v
                for k, v in _TINY_TOWER.items()
                if k not in ("intermediate_size", "projection_dim")
            },
            "mlp_ratio": 2,
        },
        _TINY_TEXT,
        tower="dinov2",
    ),
    "tiny-llava-next": Preset(
        "mistral",
        _TINY_TOWER,
        _TINY_TEXT,
        family="llava_next",
        llava={"image_grid_pinpoints": _pinpoints(42)},
    ),
    "tiny-smolvlm": Preset(
        "llama", _TINY_SIGLIP, tower="smolvlm_vision", family="smolvlm", **_TINY_TILES
    ),
    "tiny-idefics3": Preset(
        "llama", _TINY_SIGLIP, tower="idefics3_vision", family="idefics3", **_TINY_TILES
    ),
    # The dimensions of HuggingFaceTB/SmolVLM-256M-Instruct.
    "smolvlm-256m": Preset(
        "llama",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "vocab_size": 49280,
            "max_position_embeddings": 8192,
            "rope_theta": 100000.0,
        },
        chat="smolvlm",
        tower="idefics3_vision",
        family="idefics3",
        llava={"scale_factor": 4},
        pictures={"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
        **CALM,
    ),
    "tiny-video-llava": Preset(
        "llama",
        _TINY_TOWER,
        {**_TINY_TEXT, "max_position_embeddings": 1024},
        chat="vicuna-video",
        family="video_llava",
    ),
    "clip-l-qwen2-0.5b": Preset("qwen2", _CLIP_L, _QWEN2_HALF, chat="chatml", **CALM),
    "next-clip-l-qwen2-0.5b": Preset(
        "qwen2",
        _CLIP_L,
        _QWEN2_HALF,
        chat="chatml",
        family="llava_next",
        llava={"image_grid_pinpoints": _pinpoints(336)},
        **CALM,
    ),
    "clip-l-qwen2-1.5b": Preset(
        "qwen2",
        _CLIP_L,
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        chat="chatml",
        **CALM,
    ),
    # The dimensions of llava-hf/llava-1.5-7b-hf.
    "clip-l-llama-7b": Preset(
        "llama",
        _CLIP_L,
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
        },
        **CALM,
    ),
}
