"""The decoder graph with FastV inside: layers from a given one on read only the visual tokens that
matter most."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import FastV
from pocketvlm_export import upstream
from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.pruning.base import take_exactly

_Past = list[tuple[torch.Tensor, torch.Tensor]]
_KEPT_ANYWAY = 2.0  # the score of what is not ranked: above any probability


class DecoderWithFastV(nn.Module):
    """A causal language model that drops visual tokens between two of its layers (FastV, arXiv
    2403.06764, section 4).

    inputs_embeds (B, S, hidden), position_ids (B, S), picture_ids (B, S), past: a (key, value) pair
    a layer, each (B, kv_heads, past, head_dim) -> logits (B, 1, vocab), kept_tokens (B, T), then
    each layer's key and value. Layers below ``fastv.layer`` have a longer past than those from it
    on, and return one of past + S tokens; the others read and return T of the S tokens.
    ``picture_ids`` is 0 where there is text and else the number, from 1, of the picture that a
    token is of; ``kept_tokens`` are the indices of the T tokens in this run. Positions stay as they
    are given.

    Of P pictures ``fastv.keep`` times P tokens go on, ranked together by what the last token's
    attention pays them in layer ``fastv.layer`` - 1, a mean over heads. The last token always goes
    on. Rows of a batch are of one length, and each drops as many tokens as the one that drops
    fewest. Where nothing is left to drop nothing is: so in decoding.
    """

    def __init__(self, model: PreTrainedModel, fastv: FastV) -> None:
        super().__init__()
        self.model = model
        self.fastv = fastv

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        position_ids: torch.Tensor,
        picture_ids: torch.Tensor,
        past: _Past,
    ) -> tuple[torch.Tensor, ...]:
        """See the class."""
        cache = upstream.cache_of(past)
        first = self.fastv.layer
        layers = self.model.model.layers
        hidden = self._run(layers[: first - 1], inputs_embeds, position_ids, cache)
        scored = hidden[:, -1:]
        hidden = self._run(layers[first - 1 : first], hidden, position_ids, cache)
        scores = self._attention_of_last(layers[first - 1], scored, position_ids[:, -1:], cache)
        kept = kept_tokens(scores[:, past[0][0].shape[2] :], picture_ids, self.fastv.keep)  # (B, T)
        hidden = torch.gather(hidden, 1, kept.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        hidden = self._run(layers[first:], hidden, torch.gather(position_ids, 1, kept), cache)
        logits = self.model.lm_head(self.model.model.norm(hidden[:, -1:]))
        present = chain.from_iterable(upstream.cached_layers(cache))
        return (logits, kept, *present)

    def _run(
        self,
        layers: Sequence[nn.Module],
        hidden: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        """Layers of one past: (B, tokens, hidden) in and out."""
        if not len(layers):
            return hidden
        angles = self.model.model.rotary_emb(hidden, positions)
        bias = causal_bias(hidden, _length(cache, layers[0]))
        for layer in layers:
            hidden = upstream.run_decoder_layer(layer, hidden, bias, angles, cache)
        return hidden

    def _attention_of_last(
        self, layer: nn.Module, last: torch.Tensor, position: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """What the last token pays to each token in a layer that has run: (B, 1, hidden) -> (B,
        past + S).

        softmax(q k^T / sqrt(d)) of one query, which nothing lies behind: no mask, and no map of S x
        S.
        """
        attention = layer.self_attn
        query = attention.q_proj(layer.input_layernorm(last)).unflatten(
            -1, (-1, attention.head_dim)
        )
        query = getattr(attention, "q_norm", nn.Identity())(query).transpose(
            1, 2
        )  # (B, heads, 1, d)
        cos, sin = self.model.model.rotary_emb(last, position)
        query = _rotate(query, cos.unsqueeze(1), sin.unsqueeze(1))
        groups = attention.num_key_value_groups
        keys, _ = upstream.cached_layers(cache)[attention.layer_idx]  # (B, kv_heads, past + S, d)
        query = query.squeeze(2).unflatten(1, (-1, groups))  # (B, kv_heads, groups, d)
        weights = (torch.matmul(query, keys.transpose(-1, -2)) * attention.scaling).softmax(dim=-1)
        return weights.mean(dim=(1, 2))


def _length(cache: DynamicCache, layer: nn.Module) -> int:
    """How many tokens a layer's cache holds."""
    keys, _ = upstream.cached_layers(cache)[layer.self_attn.layer_idx]
    return keys.shape[2]


def kept_tokens(scores: torch.Tensor, picture_ids: torch.Tensor, keep: int) -> torch.Tensor:
    """Return the tokens that go on, ascending: scores (B, S) and picture_ids (B, S) -> int64 (B,
    T)."""
    last = torch.ones_like(picture_ids[:, -1:], dtype=torch.bool)
    pictures = picture_ids.amax(dim=1)
    fixed = torch.cat([picture_ids[:, :-1] == 0, last], dim=1)
    going = fixed.sum(dim=1) + torch.minimum((~fixed).sum(dim=1), keep * pictures)  # (B,)
    count = going.amax(dim=0).item()
    upstream.assume(count >= 1)
    upstream.assume(count <= scores.shape[1])
    ranked = torch.where(fixed, torch.full_like(scores, _KEPT_ANYWAY), scores)
    return take_exactly(ranked, count).indices


def causal_bias(hidden: torch.Tensor, past: int) -> torch.Tensor:
    """Return what is added to attention's products so that no token attends to a later one, (B, 1,
    S, past + S)."""
    tokens = hidden.shape[1]
    keys = torch.arange(past + tokens, device=hidden.device)
    later = keys[None, :] > keys[past:, None]
    bias = torch.zeros_like(later, dtype=hidden.dtype).masked_fill(
        later, torch.finfo(hidden.dtype).min
    )
    return bias[None, None].expand(hidden.shape[0], 1, -1, -1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return x * cos + rotate_half(x) * sin, half by half: one token is not worth an operator of
    its own."""
    half = x.shape[-1] // 2
    left, right, cos, sin = x[..., :half], x[..., half:], cos[..., :half], sin[..., :half]
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class FastVDecoderGraph:
    """`DecoderWithFastV` as a graph to trace."""

    kind = metadata.FASTV_DECODER

    def __init__(self, model: PreTrainedModel, spec: DecoderSpec, fastv: FastV) -> None:
        self.module: nn.Module = DecoderWithFastV(model, fastv).eval()
        self.spec = spec
        self.fastv = fastv
        cache = [f"{layer}.{kind}" for layer in range(spec.layers) for kind in ("key", "value")]
        self.input_names: Sequence[str] = (
            "inputs_embeds",
            "position_ids",
            "picture_ids",
            *(f"past_key_values.{name}" for name in cache),
        )
        self.output_names: Sequence[str] = (
            "logits",
            "kept_tokens",
            *(f"present.{name}" for name in cache),
        )
        tokens = {0: BATCH, 1: "sequence_length"}
        past, kept_past = (
            {0: BATCH, 2: name} for name in ("past_sequence_length", "kept_past_sequence_length")
        )
        after = spec.layers - fastv.layer
        pasts = [(past, past)] * fastv.layer + [(kept_past, kept_past)] * after
        self.dynamic_axes: tuple[Any, ...] = (tokens, tokens, tokens, pasts)
        totals = ["total_sequence_length"] * 2 * fastv.layer + [
            "kept_total_sequence_length"
        ] * 2 * after
        self.output_axes: Mapping[str, Mapping[int, str]] = {
            "logits": {0: BATCH},
            "kept_tokens": {0: BATCH, 1: "kept_sequence_length"},
            **{
                f"present.{name}": {0: BATCH, 2: total}
                for name, total in zip(cache, totals, strict=True)
            },
        }

    def sample_inputs(self) -> tuple[Any, ...]:
        """Return two sequences of seven tokens, four of them visual, after a past of three, of
        which two were kept."""
        batch, past, kept, tokens, spec = 2, 3, 2, 7, self.spec
        lengths = [past] * self.fastv.layer + [kept] * (spec.layers - self.fastv.layer)
        shapes = [(batch, spec.kv_heads, length, spec.head_dim) for length in lengths]
        return (
            torch.randn(batch, tokens, spec.hidden),
            torch.arange(past, past + tokens).repeat(batch, 1),
            torch.tensor([0, 1, 1, 1, 1, 0, 0]).repeat(batch, 1),
            [(torch.randn(shape), torch.randn(shape)) for shape in shapes],
        )
