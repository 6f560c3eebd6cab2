"""What rows of a decoder's attention pay to each token, summed: computed beside the layers, from
their queries and the cache's keys."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Cache

from pocketvlm_export import upstream


class Paid:
    """The sum over layers and heads of what some rows of attention pay to each token.

    Layers keep their attention as it is, fused or not. No whole map is made, only (heads, rows,
    past + S) of the requested rows: a few dozen of a prompt and one per decoded token.

    Attributes:
        total: (B, past + S) once all layers have run; None before the first.
    """

    def __init__(self, rows: torch.Tensor, attention_mask: torch.Tensor, tokens: int) -> None:
        """``rows`` int64 (R,) are numbers of this run's ``tokens``, S; ``attention_mask`` (B, past
        + S) is 0 where there is padding."""
        self.total: torch.Tensor | None = None
        self._rows = rows
        keys = torch.arange(attention_mask.shape[1], device=rows.device)
        later = keys[None] > rows[:, None] + (attention_mask.shape[1] - tokens)  # (R, past + S)
        unseen = later[None] | (attention_mask[:, None] == 0)
        nothing, hidden = torch.zeros(()), torch.full((), torch.finfo(torch.float32).min)
        self._bias = torch.where(unseen, hidden, nothing)[:, None]  # (B, 1, R, past + S)

    def add(
        self,
        attention: nn.Module,
        queries: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        cache: Cache,
    ) -> None:
        """Add a layer that has run: ``queries`` (B, S, heads, d) before they are rotated."""
        cos, sin = (each.index_select(1, self._rows).unsqueeze(1) for each in angles)
        asked = rotate(queries.index_select(1, self._rows).transpose(1, 2), cos, sin)
        keys = upstream.cached_layers(cache)[attention.layer_idx][0]  # (B, kv_heads, past + S, d)
        grouped = asked.unflatten(1, (-1, attention.num_key_value_groups))
        products = torch.matmul(grouped, keys.unsqueeze(2).transpose(-1, -2)) * attention.scaling
        if softcap := getattr(attention, "attn_logit_softcapping", None):
            products = softcap * torch.tanh(products / softcap)
        paid = (products + self._bias.unsqueeze(1)).softmax(dim=-1).sum(dim=(1, 2, 3))
        self.total = paid if self.total is None else self.total + paid


@contextmanager
def added_up(layers: Sequence[nn.Module], paid: Paid) -> Iterator[None]:
    """Let every layer add to ``paid`` what its rows pay, for as long as it lasts.

    Layers are of the Llama kind: a ``self_attn`` with ``q_proj`` and perhaps ``q_norm``, called
    with ``position_embeddings`` and ``past_key_values`` by name.
    """
    handles = []
    for layer in layers:
        attention = layer.self_attn
        queries: list[torch.Tensor] = []
        asking = getattr(attention, "q_norm", attention.q_proj)
        handles += [
            asking.register_forward_hook(_keeping(queries)),
            attention.register_forward_hook(_adding(paid, queries), with_kwargs=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return x * cos + rotate_half(x) * sin, half by half: a few rows are not worth an operator of
    their own."""
    half = x.shape[-1] // 2
    left, right, cos, sin = x[..., :half], x[..., half:], cos[..., :half], sin[..., :half]
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def _keeping(queries: list[torch.Tensor]) -> Any:
    return lambda _module, _inputs, output: queries.append(output)


def _adding(paid: Paid, queries: list[torch.Tensor]) -> Any:
    def add(attention: nn.Module, _arguments: Any, named: Any, _output: Any) -> None:
        asked = queries.pop()
        heads = asked if asked.ndim == 4 else asked.unflatten(-1, (-1, attention.head_dim))
        paid.add(attention, heads, named["position_embeddings"], named["past_key_values"])

    return add
