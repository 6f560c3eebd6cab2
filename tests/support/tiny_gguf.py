"""Knows how to write a tiny random Llama as GGUF, with a numpy twin to compare llama.cpp with."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, FEED, VOCAB, CONTEXT = 2, 4, 2, 8, 32, 48, 300, 4096
BASE, EPS = 10_000.0, 1e-5


@dataclass(frozen=True)
class TinyLlama:
    """Weights by their names in GGUF, matrices as (outputs, inputs)."""

    tensors: dict[str, np.ndarray]

    @classmethod
    def random(cls, seed: int = 0, vocab: int = VOCAB, hidden: int = HIDDEN) -> "TinyLlama":
        rng = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

        tensors = {
            "token_embd.weight": draw(vocab, hidden) * 4,
            "output_norm.weight": 1 + draw(hidden),
        }
        tensors["output.weight"] = draw(vocab, hidden) * 4
        for layer in range(LAYERS):
            block = {
                "attn_norm": 1 + draw(hidden),
                "attn_q": draw(HEADS * HEAD_DIM, hidden) * 2,
                "attn_k": draw(KV_HEADS * HEAD_DIM, hidden) * 2,
                "attn_v": draw(KV_HEADS * HEAD_DIM, hidden),
                "attn_output": draw(hidden, HEADS * HEAD_DIM),
                "ffn_norm": 1 + draw(hidden),
                "ffn_gate": draw(FEED, hidden),
                "ffn_up": draw(FEED, hidden),
                "ffn_down": draw(hidden, FEED),
            }
            tensors |= {f"blk.{layer}.{name}.weight": value for name, value in block.items()}
        return cls(tensors)

    @property
    def embed(self) -> np.ndarray:
        return self.tensors["token_embd.weight"]

    def logits(self, inputs_embeds: np.ndarray) -> np.ndarray:
        """The last position's logits in float64, all (n, hidden) embeddings at once."""
        x = inputs_embeds.astype(np.float64)
        later = np.triu(np.ones((len(x), len(x)), bool), 1)
        for layer in range(LAYERS):
            w = {
                name.split(".")[2]: t
                for name, t in self.tensors.items()
                if name.startswith(f"blk.{layer}.")
            }
            y = _norm(x, w["attn_norm"])
            q, k, v = (_heads(y @ w[f"attn_{name}"].T) for name in "qkv")
            k, v = (np.repeat(part, HEADS // KV_HEADS, axis=0) for part in (_rotate(k), v))
            scores = np.where(later, -np.inf, _rotate(q) @ k.transpose(0, 2, 1) / np.sqrt(HEAD_DIM))
            attention = np.exp(scores - scores.max(-1, keepdims=True))
            attention /= attention.sum(-1, keepdims=True)
            x = x + (attention @ v).transpose(1, 0, 2).reshape(len(x), -1) @ w["attn_output"].T
            y = _norm(x, w["ffn_norm"])
            gate = y @ w["ffn_gate"].T
            x = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
        return _norm(x[-1], self.tensors["output_norm.weight"]) @ self.tensors["output.weight"].T


def write_gguf(
    path: Path,
    model: TinyLlama | None = None,
    tokens: list[str] | None = None,
    architecture: str = "llama",
    **changed: Any,
) -> TinyLlama:
    """Write a model; ``changed`` replaces settings by name, with ``__`` for dots (None leaves one
    out).

    ``qwen2vl`` has M-RoPE and biases, ``qwen3vl`` M-RoPE, norms of each head and an embedding of
    twice the width; the numpy twin is Llama's alone.
    """
    model = model or TinyLlama.random()
    tensors = dict(model.tensors)
    own: dict[str, Any] = {}
    if architecture == "qwen2vl":
        own = {"rope.dimension_sections": [1, 2, 1, 0]}
        for layer, (part, heads) in itertools.product(
            range(LAYERS), {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}.items()
        ):
            tensors[f"blk.{layer}.attn_{part}.bias"] = np.ones(heads * HEAD_DIM, np.float32)
    if architecture == "qwen3vl":
        own = {"rope.dimension_sections": [2, 1, 1, 0], "n_deepstack_layers": 1}
        for layer, part in itertools.product(range(LAYERS), "qk"):
            tensors[f"blk.{layer}.attn_{part}_norm.weight"] = np.ones(HEAD_DIM, np.float32)
    vocab, hidden = model.embed.shape
    tokens = tokens or [f"token{i}" for i in range(vocab)]
    settings = {
        "context_length": CONTEXT,
        "embedding_length": hidden,
        "block_count": LAYERS,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "rope.dimension_count": HEAD_DIM,
        "rope.freq_base": BASE,
        "attention.layer_norm_rms_epsilon": EPS,
    }
    settings |= own | {name.replace("__", "."): value for name, value in changed.items()}
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in settings.items():
        if isinstance(value, str):
            writer.add_string(f"{architecture}.{name}", value)
        elif isinstance(value, list):
            writer.add_array(f"{architecture}.{name}", value)
        elif value is not None:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(
                f"{architecture}.{name}", value
            )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b"])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


def _heads(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1, HEAD_DIM).transpose(1, 0, 2)


def _rotate(x: np.ndarray) -> np.ndarray:
    """Rotary positions on neighbouring pairs, as GGUF's Llama has them: (heads, n, head_dim)."""
    angles = np.outer(np.arange(x.shape[1]), BASE ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM))
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
