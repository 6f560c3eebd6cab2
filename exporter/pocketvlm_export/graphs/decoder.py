"""The decoder graph: one graph for prefill and decode, its past as inputs and outputs, logits of
the last position."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import CAUSAL, POSITION_AXES, PROMPT
from pocketvlm.ort.signatures import SCORED_ROWS, TOKEN_SCORES, CacheTensor, cache_tensors
from pocketvlm_export import upstream
from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.graphs.masks import two_way_masks
from pocketvlm_export.graphs.scores import Paid, added_up

_T = TypeVar("_T")
_Past = list[tuple[torch.Tensor, ...]]


class DecoderWithPast(nn.Module):
    """A language model whose cache is a list of tensors.

    Inputs: inputs_embeds (B, S, hidden), attention_mask (B, past + S), position_ids (B, S), or
    (axes, B, S) if a position has several numbers. Then past, a (key, value) pair per layer, each
    (B, kv_heads, past, head_dim). Outputs: logits (B, 1, vocab), then each layer's key and value
    (B, kv_heads, past + S, head_dim). A layer that is a convolution has its last inputs instead,
    (B, hidden, width) before and after, zeros before the first token. Which keys a token attends to
    is the order of the cache and the mask, whatever the positions. Logits of all positions would
    cost 1.4 times the prefill at 616 tokens.

    ``extras``, (B, S, hidden) each, are added to the hidden state behind the first layers, one
    behind each: features of pictures' tokens, and zeros where there is text.

    ``picture_ids`` (B, S), see `two_way_masks`, names the tokens of a picture or a prompt that
    attend to each other in both directions; None if there are none.
    """

    def __init__(self, model: PreTrainedModel, attention: str = CAUSAL) -> None:
        super().__init__()
        self.model = model
        self.attention = attention

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: _Past,
        extras: Sequence[torch.Tensor] = (),
        picture_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """See the class."""
        mask: torch.Tensor | Mapping[str, torch.Tensor] = attention_mask
        if picture_ids is not None:
            config, dtype = self.model.config, inputs_embeds.dtype
            mask = two_way_masks(
                config,
                attention_mask,
                picture_ids,
                dtype,
                beyond_window=self.attention == PROMPT,
            )
        with added_behind(self.model.model.layers, extras) if extras else nullcontext():
            output = self.model(
                inputs_embeds=inputs_embeds,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=upstream.cache_of(past),
                use_cache=True,
                logits_to_keep=1,
            )
        present = chain.from_iterable(upstream.cached_layers(output.past_key_values))
        return (output.logits, *present)


@contextmanager
def added_behind(layers: Sequence[nn.Module], extras: Sequence[torch.Tensor]) -> Iterator[None]:
    """Add ``extras`` to the output of the first layers, one to each, for as long as it lasts.

    transformers' models pick the rows of pictures by a mask, which cannot be traced; with zeros in
    all others this is the same sum.
    """

    def adding(extra: torch.Tensor) -> Any:
        return lambda _layer, _inputs, output: output + extra

    handles = [
        layer.register_forward_hook(adding(extra))
        for layer, extra in zip(layers, extras, strict=False)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ScoringDecoder(nn.Module):
    """`DecoderWithPast` that also says what some of its rows of attention pay to each token.

    inputs_embeds, attention_mask, position_ids (B, S), past as there, scored_rows (R,), numbers of
    this run's tokens, perhaps none -> logits, each layer's key and value, token_scores (B, past +
    S): of the rows' attention the sum over layers and heads. A causal model without further
    features.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = DecoderWithPast(model)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: _Past,
        scored_rows: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """See the class."""
        paid = Paid(scored_rows, attention_mask, inputs_embeds.shape[1])
        with added_up(self.decoder.model.model.layers, paid):
            outputs = self.decoder(inputs_embeds, attention_mask, position_ids, past)
        assert paid.total is not None
        return (*outputs, paid.total)


class DecoderGraph:
    """`DecoderWithPast` as a graph to trace."""

    kind = metadata.DECODER

    def __init__(self, model: PreTrainedModel, spec: DecoderSpec) -> None:
        self.module: nn.Module = DecoderWithPast(model, spec.attention).eval()
        self.spec = spec
        self._axes = POSITION_AXES[spec.positions]
        self._cache = cache_tensors(spec)
        self.input_names: Sequence[str] = (
            "inputs_embeds",
            "attention_mask",
            "position_ids",
            *(tensor.past for tensor in self._cache),
            *spec.extras,
            *(("picture_ids",) if spec.attention != CAUSAL else ()),
        )
        self.output_names: Sequence[str] = ("logits", *(tensor.present for tensor in self._cache))
        tokens = {0: BATCH, 1: "sequence_length"}
        total = {0: BATCH, 1: "total_sequence_length"}
        numbered = tokens if self._axes == 1 else {1: BATCH, 2: "sequence_length"}
        past = self._by_layer([_axes(tensor, "past_sequence_length") for tensor in self._cache])
        further = self._further([tokens] * len(spec.extras), tokens)
        self.dynamic_axes: tuple[Any, ...] = (tokens, total, numbered, past, *further)
        self.output_axes: Mapping[str, Mapping[int, str]] = {
            "logits": {0: BATCH},
            **{tensor.present: _axes(tensor, "total_sequence_length") for tensor in self._cache},
        }

    def sample_inputs(self) -> tuple[Any, ...]:
        """Return two sequences of four tokens after a past of three."""
        batch, past, tokens, spec = 2, 3, 4, self.spec
        positions = torch.arange(past, past + tokens).repeat(batch, 1)
        extras = [torch.randn(batch, tokens, spec.hidden) for _ in spec.extras]
        picture_ids = torch.tensor([[0, 1, 1, 0]] * batch)
        cache = [torch.randn(batch, *tensor.of(past)[1:]) for tensor in self._cache]
        return (
            torch.randn(batch, tokens, spec.hidden),
            torch.ones(batch, past + tokens, dtype=torch.int64),
            positions if self._axes == 1 else positions.repeat(self._axes, 1, 1),
            self._by_layer(cache),
            *self._further(extras, picture_ids),
        )

    def _further(self, extras: Any, picture_ids: Any) -> tuple[Any, ...]:
        """Sample inputs for those after the cache that this graph has."""
        if self.spec.attention != CAUSAL:
            return (extras, picture_ids)
        return (extras,) if self.spec.extras else ()

    def _by_layer(self, each: Sequence[_T]) -> list[tuple[_T, ...]]:
        """What goes with the tensors of the cache, a tuple for each layer."""
        layers: list[tuple[_T, ...]] = [() for _ in range(self.spec.layers)]
        for tensor, value in zip(self._cache, each, strict=True):
            layers[tensor.layer] += (value,)
        return layers


def _axes(tensor: CacheTensor, tokens: str) -> dict[int, str]:
    """The axes of a tensor of the cache that may have any size."""
    return {0: BATCH, 2: tokens} if tensor.grows else {0: BATCH}


class ScoringDecoderGraph(DecoderGraph):
    """`ScoringDecoder` as a graph to trace."""

    kind = metadata.SCORING_DECODER

    def __init__(self, model: PreTrainedModel, spec: DecoderSpec) -> None:
        super().__init__(model, spec)
        self.module = ScoringDecoder(model).eval()
        self.input_names = (*self.input_names, SCORED_ROWS)
        self.output_names = (*self.output_names, TOKEN_SCORES)
        self.dynamic_axes = (*self.dynamic_axes, {0: SCORED_ROWS})
        scores = {0: BATCH, 1: "total_sequence_length"}
        self.output_axes = {**self.output_axes, TOKEN_SCORES: scores}

    def sample_inputs(self) -> tuple[Any, ...]:
        """Return those of a `DecoderGraph`, and two rows."""
        return (*super().sample_inputs(), torch.tensor([2, 3]))
