"""Tiny random Qwen-VL models of transformers, with the weights that the vectors in
``tests/data/qwen*_vl.npz`` were made with."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from pocketvlm.decoders.base import EmbeddingSegment, Segment, TokenSegment
from pocketvlm.layouts import TokenGrid
from pocketvlm_export.families import DecoderSpec

DATA = Path(__file__).parents[1] / "data"
IMAGE, START, END = 250, 248, 249
_TEXT: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}
_VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "depth": 3,
        "embed_dim": 32,
        "hidden_size": 64,
        "mlp_ratio": 2,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "qwen2_5_vl": {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1, 3],
    },
    "qwen3_vl": {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    },
}
# What the texts differ in.
_TEXT_OF: dict[str, dict[str, Any]] = {
    "qwen3_vl": {
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    }
}
EXTRAS = {"qwen3_vl": ("deepstack_0", "deepstack_1", "deepstack_2")}
_CLASSES = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
NAMES = tuple(_CLASSES)
_SEED = 3


@dataclass(frozen=True)
class TinyQwen:
    """A model with its tower, and its decoder's dimensions."""

    model: PreTrainedModel
    spec: DecoderSpec

    def embed(self, ids: list[int]) -> torch.Tensor:
        """(1, n, hidden)."""
        with torch.no_grad():
            embeddings: torch.Tensor = self.model.get_input_embeddings()(torch.tensor([ids]))
        return embeddings

    def positions(self, ids: list[int], grids: list[TokenGrid]) -> torch.Tensor:
        """What transformers numbers an unpruned prompt with, int64 (3, n); ``ids`` have IMAGE in
        every slot.

        Every second picture is given as a clip of one frame, which is numbered as a picture is:
        two of a kind could not follow each other.
        """
        sizes = [[1, 2 * grid.rows, 2 * grid.columns] for grid in grids]
        pictures = itertools.chain.from_iterable(
            [1 + number % 2] * grid.tokens for number, grid in enumerate(grids)
        )
        kinds = [next(pictures) if token == IMAGE else 0 for token in ids]
        numbers, _ = self.model.model.get_rope_index(
            torch.tensor([ids]),
            torch.tensor([kinds]),
            torch.tensor(sizes[::2]),
            torch.tensor(sizes[1::2]) if len(sizes) > 1 else None,
        )
        positions: torch.Tensor = numbers[:, 0].long()
        return positions


def tiny_qwen(name: str) -> TinyQwen:
    """One of NAMES, attention eager, in eval mode."""
    config_class, model_class = _CLASSES[name]
    config = config_class(
        text_config=_TEXT | _TEXT_OF.get(name, {}),
        vision_config=_VISION[name],
        image_token_id=IMAGE,
        video_token_id=251,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(_SEED)
    model = model_class(config).eval()
    _fill(model)
    text = config.text_config
    spec = DecoderSpec(
        config=text,
        layers=4,
        heads=4,
        kv_heads=2,
        head_dim=16,
        hidden=64,
        vocab=256,
        context=2048,
        tied=False,
        positions="mrope",
        extras=EXTRAS.get(name, ()),
    )
    return TinyQwen(model, spec)


def _fill(model: PreTrainedModel) -> None:
    """The weights of the vectors, a generator's numbers in the parameters' order."""
    numbers = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=numbers)
            if parameter.ndim > 1:
                parameter.copy_(drawn * parameter[0].numel() ** -0.5)
            else:
                norm = ("norm" in name or "ln_" in name) and name.endswith("weight")
                parameter.copy_(0.1 * drawn + float(norm))
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=numbers))


@dataclass(frozen=True)
class Golden:
    """The vectors of one model: a prompt with one pruned picture, and transformers' answer."""

    segments: list[Segment]
    position_ids: np.ndarray  # (3, n) of what is left
    next_position: int
    logits_prefill: np.ndarray
    logits_last: np.ndarray  # after all of greedy
    greedy: list[int]


def golden(name: str) -> Golden:
    """Read ``tests/data/NAME.npz``."""
    with np.load(DATA / f"{name}.npz") as file:
        data = dict(file)
    ids = data["input_ids"][0].astype(np.int64)
    slots = np.flatnonzero(ids == IMAGE)
    _, rows, columns = data["grid_thw"][0] // 2
    picture = EmbeddingSegment(
        data["image_features"],
        grid=TokenGrid(int(rows), int(columns)),
        kept=data["kept_indices"].astype(np.int64),
        extras=dict(zip(EXTRAS.get(name, ()), data.get("deepstack", ()), strict=True)),
    )
    return Golden(
        [TokenSegment(ids[: slots[0]]), picture, TokenSegment(ids[slots[-1] + 1 :])],
        data["position_ids_kept"][:, 0],
        int(data["next_position"]),
        data["logits_prefill"],
        data["logits_last"],
        data["greedy"].tolist(),
    )
