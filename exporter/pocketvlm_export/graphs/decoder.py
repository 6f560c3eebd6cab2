"""The decoder graph: one graph for prefill and decode, its past as inputs and outputs, logits of
the last position."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm.artifact.manifest import POSITION_AXES
from pocketvlm.ort.signatures import CacheTensor, cache_tensors
from pocketvlm_export import upstream
from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.graphs.base import BATCH

_T = TypeVar("_T")
_Past = list[tuple[torch.Tensor, ...]]


class DecoderWithPast(nn.Module):
    """A causal language model whose cache is a list of tensors.

    inputs_embeds (B, S, hidden), attention_mask (B, past + S), position_ids (B, S) or, where a
    position has several numbers, (axes, B, S), past: a (key, value) pair a layer, each (B,
    kv_heads, past, head_dim) -> logits (B, 1, vocab), then each layer's key and value (B, kv_heads,
    past + S, head_dim). A layer that is a convolution has its last inputs instead, (B, hidden,
    width) before and after, zeros before the first token. Which keys a token attends to is the
    order of the cache and the mask, whatever the positions. Logits of all positions would cost 1.4
    times the prefill at 616 tokens.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: _Past,
    ) -> tuple[torch.Tensor, ...]:
        """See the class."""
        output = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=upstream.cache_of(past),
            use_cache=True,
            logits_to_keep=1,
        )
        present = chain.from_iterable(upstream.cached_layers(output.past_key_values))
        return (output.logits, *present)


class DecoderGraph:
    """`DecoderWithPast` as a graph to trace."""

    kind = metadata.DECODER

    def __init__(self, model: PreTrainedModel, spec: DecoderSpec) -> None:
        self.module: nn.Module = DecoderWithPast(model).eval()
        self.spec = spec
        self._axes = POSITION_AXES[spec.positions]
        self._cache = cache_tensors(spec)
        self.input_names: Sequence[str] = (
            "inputs_embeds",
            "attention_mask",
            "position_ids",
            *(tensor.past for tensor in self._cache),
        )
        self.output_names: Sequence[str] = ("logits", *(tensor.present for tensor in self._cache))
        tokens = {0: BATCH, 1: "sequence_length"}
        total = {0: BATCH, 1: "total_sequence_length"}
        numbered = tokens if self._axes == 1 else {1: BATCH, 2: "sequence_length"}
        past = [_axes(tensor, "past_sequence_length") for tensor in self._cache]
        self.dynamic_axes: tuple[Any, ...] = (tokens, total, numbered, self._by_layer(past))
        self.output_axes: Mapping[str, Mapping[int, str]] = {
            "logits": {0: BATCH},
            **{tensor.present: _axes(tensor, "total_sequence_length") for tensor in self._cache},
        }

    def sample_inputs(self) -> tuple[Any, ...]:
        """Return two sequences of four tokens after a past of three."""
        batch, past, tokens, spec = 2, 3, 4, self.spec
        positions = torch.arange(past, past + tokens).repeat(batch, 1)
        cache = [torch.randn(batch, *tensor.of(past)[1:]) for tensor in self._cache]
        return (
            torch.randn(batch, tokens, spec.hidden),
            torch.ones(batch, past + tokens, dtype=torch.int64),
            positions if self._axes == 1 else positions.repeat(self._axes, 1, 1),
            self._by_layer(cache),
        )

    def _by_layer(self, each: Sequence[_T]) -> list[tuple[_T, ...]]:
        """What goes with the tensors of the cache, a tuple for each layer."""
        layers: list[tuple[_T, ...]] = [() for _ in range(self.spec.layers)]
        for tensor, value in zip(self._cache, each, strict=True):
            layers[tensor.layer] += (value,)
        return layers


def _axes(tensor: CacheTensor, tokens: str) -> dict[int, str]:
    """The axes of a tensor of the cache that may have any size."""
    return {0: BATCH, 2: tokens} if tensor.grows else {0: BATCH}
