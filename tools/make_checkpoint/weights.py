"""Knows how to fill a model with seeded noise and write it as safetensors shards, one shard in
memory at a time."""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

# Parameter names as transformers 5 holds them -> as checkpoints store them. "classic": what
# llava-hf uploaded to the hub and transformers 4 saved; "flat": what transformers 5 saves;
# "nested": the module names themselves.
LAYOUTS: dict[str, list[tuple[str, str]]] = {
    "classic": [
        (r"^model\.vision_tower\.", "vision_tower.vision_model."),
        (r"^model\.(video|image)_tower\.", r"\1_tower.vision_model."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head", "language_model.lm_head"),
        (r"^model\.(multi_modal_projector|image_newline)", r"\1"),
    ],
    "flat": [
        (r"^model\.vision_tower\.", "vision_tower."),
        (r"^model\.(video|image)_tower\.", r"\1_tower."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head", "language_model.lm_head"),
        (r"^model\.(multi_modal_projector|image_newline)", r"\1"),
    ],
    # What Qwen uploaded: a tower beside a text model.
    "qwen-vl": [
        (r"^model\.visual\.", "visual."),
        (r"^model\.language_model\.", "model."),
    ],
    # What LiquidAI uploaded: a tower one level deeper.
    "lfm2-vl": [
        (r"^model\.vision_tower\.", "model.vision_tower.vision_model."),
    ],
    "nested": [],
}


def write_weights(
    shapes: dict[str, torch.Size],
    folder: Path,
    *,
    seed: int,
    dtype: torch.dtype,
    layout: str,
    shard_bytes: int,
    residual: float,
    embedding: float,
    norm: float = 1.0,
) -> None:
    """Write ``model.safetensors``, or numbered shards and their index where the weights outgrow
    ``shard_bytes``."""
    shards = list(_plan(shapes, dtype, shard_bytes))
    where: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        single = len(shards) == 1
        file = (
            "model.safetensors"
            if single
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        tensors = {
            _stored(name, layout): noise(name, shapes[name], seed, residual, embedding, norm).to(
                dtype
            )
            for name in names
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(tensors, file))
    if len(shards) > 1:
        total = sum(shape.numel() for shape in shapes.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2, sort_keys=True) + "\n"
        )


def noise(
    name: str,
    shape: torch.Size,
    seed: int,
    residual: float = 1.0,
    embedding: float = 0.5,
    norm: float = 1.0,
) -> torch.Tensor:
    """Return a float32 parameter that depends on its name, the seed and the scales of a preset
    alone.

    Scaled by fan-in, so that signals keep their size through the layers.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    values = torch.randn(shape, generator=generator)
    if re.search(r"(norm\w*\.weight|ln_q\.weight|lambda1|lambda_[12])$", name):
        return (norm if "language_model" in name else 1.0) + 0.1 * values
    if len(shape) == 1:
        return 0.1 * values
    if "embed" in name and "patch" not in name:
        return embedding * values
    fan_in = shape[1:].numel()
    # Twice the usual gain on queries and keys: attention that differs from patch to patch, as
    # trained towers have it.
    gain = 2.0 if re.search(r"[qk]_proj", name) else 1.0
    if re.search(r"(o_proj|out_proj|down_proj|fc2|attn\.proj|projection_layer|\.w2)\.weight", name):
        gain = residual
    if name.endswith("attn.qkv.weight"):  # queries and keys above values
        values[: 2 * shape[0] // 3] *= 2.0
    return values * gain * fan_in**-0.5


def _stored(name: str, layout: str) -> str:
    for pattern, replacement in LAYOUTS[layout]:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name


def _plan(
    shapes: dict[str, torch.Size], dtype: torch.dtype, shard_bytes: int
) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = shape.numel() * dtype.itemsize
        if names and held + size > shard_bytes:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names
