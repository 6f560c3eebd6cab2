"""A CLIP vision tower in numpy and float64, written from the architecture alone, to hold the vision
graph against."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

PREFIX = "vision_tower.vision_model."


@dataclass(frozen=True)
class LayerTrace:
    """One encoder layer of one picture: logits and probabilities (heads, N + 1, N + 1), output (N +
    1, C)."""

    logits: np.ndarray
    probabilities: np.ndarray
    output: np.ndarray


class ClipOracle:
    """Runs one picture, pixel_values (3, H, W), through every layer of a checkpoint's tower."""

    def __init__(self, checkpoint: Path, *, heads: int, patch: int) -> None:
        stored = load_file(checkpoint / "model.safetensors")
        self.tensors = {name: value.astype(np.float64) for name, value in stored.items()}
        self.heads = heads
        self.patch = patch

    def run(self, pixel_values: np.ndarray, drop=None) -> list[LayerTrace]:
        """``drop`` is asked before each layer which of its patches are kept: its number and the
        trace of the one before -> numbers among those that are there, or None for all."""
        hidden = self._norm("pre_layrnorm", self._embed(pixel_values.astype(np.float64)))
        traces = []
        while f"{PREFIX}encoder.layers.{len(traces)}.layer_norm1.weight" in self.tensors:
            kept = drop(len(traces), traces[-1]) if drop and traces else None
            if kept is not None:
                hidden = hidden[[0, *(kept + 1)]]
            traces.append(self._layer(f"encoder.layers.{len(traces)}.", hidden))
            hidden = traces[-1].output
        return traces

    def project(self, features: np.ndarray) -> np.ndarray:
        """The projector: linear, GELU by the error function, linear."""
        x = self._linear("multi_modal_projector.linear_1", features)
        x = x * 0.5 * (1 + _erf(x / np.sqrt(2)))
        return self._linear("multi_modal_projector.linear_2", x)

    def _embed(self, pixels: np.ndarray) -> np.ndarray:
        kernel = self.tensors[PREFIX + "embeddings.patch_embedding.weight"]
        p, side = self.patch, pixels.shape[1] // self.patch
        tiles = (
            pixels.reshape(3, side, p, side, p).transpose(1, 3, 0, 2, 4).reshape(side * side, -1)
        )
        patches = tiles @ kernel.reshape(len(kernel), -1).T
        tokens = np.vstack([self.tensors[PREFIX + "embeddings.class_embedding"], patches])
        return tokens + self.tensors[PREFIX + "embeddings.position_embedding.weight"]

    def _layer(self, name: str, hidden: np.ndarray) -> LayerTrace:
        x = self._norm(name + "layer_norm1", hidden)
        q, k, v = (
            self._split(self._linear(f"{PREFIX}{name}self_attn.{part}_proj", x)) for part in "qkv"
        )
        logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        probabilities = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        context = (probabilities @ v).transpose(1, 0, 2).reshape(hidden.shape)
        hidden = hidden + self._linear(f"{PREFIX}{name}self_attn.out_proj", context)
        x = self._linear(f"{PREFIX}{name}mlp.fc1", self._norm(name + "layer_norm2", hidden))
        x = x / (1 + np.exp(-1.702 * x))  # quick_gelu
        return LayerTrace(logits, probabilities, hidden + self._linear(f"{PREFIX}{name}mlp.fc2", x))

    def _split(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.tensors[name + ".weight"].T + self.tensors[name + ".bias"]

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return (
            scaled * self.tensors[f"{PREFIX}{name}.weight"] + self.tensors[f"{PREFIX}{name}.bias"]
        )


def best(scores: np.ndarray, budget: int) -> np.ndarray:
    """Kept indices in raster order: higher first, ties to the lower index."""
    return np.sort(np.argsort(-scores, kind="stable")[:budget])


def _erf(x: np.ndarray) -> np.ndarray:
    from math import erf

    return np.vectorize(erf)(x)
