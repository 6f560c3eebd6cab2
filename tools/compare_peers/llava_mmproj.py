"""Knows llama.cpp's mmproj file: a CLIP tower and LLaVA's projector as GGUF, which its converter no
longer writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

_LAYER = r"v.blk.\1."
# Names in a checkpoint -> names in the file.
_NAMES = [
    (r"^vision_tower\.vision_model\.", ""),
    (r"^multi_modal_projector\.linear_1\.", "mm.0."),
    (r"^multi_modal_projector\.linear_2\.", "mm.2."),
    (r"^embeddings\.class_embedding$", "v.class_embd"),
    (r"^embeddings\.patch_embedding\.", "v.patch_embd."),
    (r"^embeddings\.position_embedding\.", "v.position_embd."),
    (r"^pre_layrnorm\.", "v.pre_ln."),
    (r"^post_layernorm\.", "v.post_ln."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", _LAYER + r"attn_\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", _LAYER + "attn_out."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", _LAYER + r"ln\2."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1\.", _LAYER + "ffn_up."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2\.", _LAYER + "ffn_down."),
]


def write_llava_mmproj(checkpoint: Path, path: Path, kind: str) -> None:
    """Write the tower and projector of a LLaVA checkpoint; ``kind`` of its matrices is ``f16`` or
    ``q8_0``."""
    vision = json.loads((checkpoint / "config.json").read_text())["vision_config"]
    pictures = json.loads((checkpoint / "preprocessor_config.json").read_text())
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(vision["image_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_projection_dim(vision["projection_dim"])
    writer.add_vision_block_count(
        vision["num_hidden_layers"]
    )  # it computes one less: LLaVA's feature layer -2
    writer.add_vision_head_count(vision["num_attention_heads"])
    writer.add_vision_attention_layernorm_eps(vision["layer_norm_eps"])
    writer.add_vision_image_mean(pictures["image_mean"])
    writer.add_vision_image_std(pictures["image_std"])
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is not a mapping
                if name.startswith(("vision_tower.", "multi_modal_projector.")):
                    _add(writer, _renamed(name), weights.get_tensor(name), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if values.ndim == 1 or "position_embd" in name:
        writer.add_tensor(name, values.astype(np.float32))
    elif kind == "q8_0" and values.ndim == 2:
        quantized = gguf.quantize(values.astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, values.astype(np.float16))


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name
