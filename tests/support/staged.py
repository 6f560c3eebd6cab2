"""Stages of a decoder in numpy and float64, from the formulas; nothing of it is the exporter's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketvlm.artifact.stages import Stage


def embeddings(spec: Any, tokens: int, seed: int = 0, rows: int = 1) -> np.ndarray:
    """What a decoder reads, (rows, tokens, hidden)."""
    return np.random.default_rng(seed).normal(size=(rows, tokens, spec.hidden)).astype(np.float32)


def layer_in_float64(layer, x, positions, theta):
    """One transformer layer over rows at these positions, from its formulas: (n, hidden) -> that,
    and its map (heads, n, n)."""
    state = {name: value.double().numpy() for name, value in layer.state_dict().items()}
    heads, groups, d = (
        layer.self_attn.config.num_attention_heads,
        layer.self_attn.num_key_value_groups,
        16,
    )

    def norm(rows, name):
        return (
            rows / np.sqrt((rows**2).mean(axis=-1, keepdims=True) + 1e-6) * state[f"{name}.weight"]
        )

    def project(rows, name):
        return rows @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)

    angles = positions[:, None] / theta ** (np.arange(0, d, 2) / d)

    def turn(rows):  # (n, heads, d), each pair of halves by its angle
        left, right = rows[..., : d // 2], rows[..., d // 2 :]
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

    normed = norm(x, "input_layernorm")
    q, k, v = (project(normed, f"self_attn.{name}_proj").reshape(len(x), -1, d) for name in "qkv")
    q, k, v = turn(q), np.repeat(turn(k), groups, axis=1), np.repeat(v, groups, axis=1)
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d)
    scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    x = x + project(
        np.einsum("hij,jhd->ihd", weights, v).reshape(len(x), heads * d), "self_attn.o_proj"
    )
    normed = norm(x, "post_attention_layernorm")
    gate, up = project(normed, "mlp.gate_proj"), project(normed, "mlp.up_proj")
    return x + project(gate / (1 + np.exp(-gate)) * up, "mlp.down_proj"), weights


def raters(embeds: np.ndarray, is_visual: np.ndarray) -> np.ndarray:
    """Text behind the picture that stands out in softmax(V T^T), a mean over V: positions."""
    text = np.arange(np.flatnonzero(is_visual).max() + 1, len(embeds))
    products = embeds[is_visual] @ embeds[text].T
    shares = np.exp(products - products.max(axis=1, keepdims=True))
    values = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return text[values > values.mean()] if (values > values.mean()).any() else text


def in_float64(
    model: Any,
    embeds: np.ndarray,
    is_visual: np.ndarray,
    stages: Sequence[Stage],
    given: np.ndarray | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The logits of a whole prompt about one picture, rows gathered at their original positions,
    and the positions that each stage left."""
    x, positions = embeds.astype(np.float64), np.arange(len(embeds))
    theta, weights = model.config.rope_parameters["rope_theta"], np.zeros(0)
    at, left = {stage.layer: stage for stage in stages}, []
    rating = raters(embeds.astype(np.float64), is_visual)
    for number, layer in enumerate(model.model.layers):
        if stage := at.get(number):
            visual = positions[is_visual[positions]]
            place = {position: row for row, position in enumerate(positions)}
            scores = {
                "last-token": weights.mean(axis=0)[-1],
                "raters": weights.mean(axis=0)[[place[rater] for rater in rating]].mean(axis=0),
                "given": np.zeros(len(embeds)) if given is None else given[positions],
                "exit": np.zeros(len(positions)),
            }[stage.by]
            of_visual = scores[[place[position] for position in visual]]
            best = visual[np.argsort(-of_visual, kind="stable")[: stage.keep]]
            positions = np.sort(np.concatenate([positions[~is_visual[positions]], best]))
            x = x[[place[position] for position in positions]]
            left.append(positions)
        x, weights = layer_in_float64(layer, x, positions, theta)
    last = (
        x[-1]
        / np.sqrt((x[-1] ** 2).mean() + 1e-6)
        * model.model.norm.weight.detach().double().numpy()
    )
    return model.lm_head.weight.detach().double().numpy() @ last, left
