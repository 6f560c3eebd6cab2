"""The decoder graph with stages: layers from each on read only the visual tokens that matter most
there."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm.artifact.stages import GIVEN, Stage
from pocketvlm.ort.signatures import cache_tensors, kept_names
from pocketvlm_export import upstream
from pocketvlm_export.decoder_stages import find_ranking
from pocketvlm_export.decoder_stages.base import StageEvidence
from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.graphs.layer_attention import LayerAttention
from pocketvlm_export.pruning.base import take_exactly

_Past = list[tuple[torch.Tensor, torch.Tensor]]


class DecoderWithStages(nn.Module):
    """A causal language model that drops visual tokens between its layers.

    Inputs: inputs_embeds (B, S, hidden), position_ids (B, S), picture_ids (B, S). Then past, a
    (key, value) pair per layer, each (B, kv_heads, past, head_dim), and visual_scores (B, S) if a
    stage reads given scores. Outputs: logits (B, 1, vocab), of each stage kept_tokens (B, T), then
    each layer's key and value. Layers before the first stage have the longest past, and return one
    of past + S tokens. Those from a stage on read and return T of the S tokens. ``picture_ids`` is
    0 where there is text and else the number, from 1, of the picture that a token is of.
    ``kept_tokens`` are the indices of the T tokens in this run. Positions stay as they are given.

    Of P pictures ``keep`` times P tokens are kept at a stage, ranked together among those that the
    stages before have left. Text and the last token are always kept. Rows of a batch are of one
    length, and each drops as many tokens as the one that drops fewest. Where nothing is left to
    drop nothing is: so in decoding.
    """

    def __init__(self, model: PreTrainedModel, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.model = model
        self.stages = tuple(stages)
        self.rankings = {stage.by: find_ranking(stage.by)() for stage in stages}

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        position_ids: torch.Tensor,
        picture_ids: torch.Tensor,
        past: _Past,
        visual_scores: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """See the class."""
        cache = upstream.cache_of(past)
        layers, first = self.model.model.layers, 0
        prepared = {
            by: ranking.prepare(inputs_embeds, picture_ids) for by, ranking in self.rankings.items()
        }
        pictures = picture_ids.amax(dim=1)
        hidden, positions = inputs_embeds, position_ids
        tokens = torch.arange(picture_ids.shape[1], device=picture_ids.device)
        tokens = tokens.expand_as(picture_ids)  # those that are left, by their numbers in this run
        kept_tokens: list[torch.Tensor] = []
        for stage in self.stages:
            read, hidden = self._run(layers[first : stage.layer], hidden, positions, cache)
            layer = layers[stage.layer - 1]
            of_pictures = torch.gather(picture_ids, 1, tokens)
            if self.rankings[stage.by].ranks:
                evidence = StageEvidence(
                    tokens,
                    LayerAttention(layer, self.model.model.rotary_emb, read, positions, cache),
                    prepared[stage.by],
                    None if visual_scores is None else torch.gather(visual_scores, 1, tokens),
                )
                scores = self.rankings[stage.by].scores(evidence)
            else:
                scores = torch.zeros_like(of_pictures, dtype=hidden.dtype)
            going = going_on(scores, of_pictures, stage.keep * pictures)  # (B, T)
            hidden = torch.gather(hidden, 1, going.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            positions, tokens = torch.gather(positions, 1, going), torch.gather(tokens, 1, going)
            kept_tokens.append(tokens)
            first = stage.layer
        _, hidden = self._run(layers[first:], hidden, positions, cache)
        logits = self.model.lm_head(self.model.model.norm(hidden[:, -1:]))
        present = chain.from_iterable(upstream.cached_layers(cache))
        return (logits, *kept_tokens, *present)

    def _run(
        self,
        layers: Sequence[nn.Module],
        hidden: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Layers of one past, (B, n, hidden): what the last of them reads, and what it makes of
        it."""
        angles = self.model.model.rotary_emb(hidden, positions)
        bias = causal_bias(hidden, _length(cache, layers[0]))
        read = hidden
        for layer in layers:
            read, hidden = hidden, upstream.run_decoder_layer(layer, hidden, bias, angles, cache)
        return read, hidden


def _length(cache: DynamicCache, layer: nn.Module) -> int:
    """How many tokens a layer's cache holds."""
    keys, _ = upstream.cached_layers(cache)[layer.self_attn.layer_idx]
    return keys.shape[2]


def going_on(
    scores: torch.Tensor, picture_ids: torch.Tensor, keep: torch.Tensor | int
) -> torch.Tensor:
    """Return which of n tokens are kept, ascending: scores (B, n) and picture_ids (B, n), of which
    ``keep`` visual ones, (B,), stay -> int64 (B, T)."""
    last = torch.ones_like(picture_ids[:, -1:], dtype=torch.bool)
    fixed = torch.cat([picture_ids[:, :-1] == 0, last], dim=1)
    going = fixed.sum(dim=1) + (~fixed).sum(dim=1).clamp(max=keep)  # (B,)
    count = going.amax(dim=0).item()
    upstream.assume(count >= 1)
    upstream.assume(count <= scores.shape[1])
    # What is not ranked is above any score, those that are given too.
    ranked = torch.where(fixed, torch.full_like(scores, torch.finfo(scores.dtype).max), scores)
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


class StagedDecoderGraph:
    """`DecoderWithStages` as a graph to trace."""

    kind = metadata.STAGED_DECODER

    def __init__(self, model: PreTrainedModel, spec: DecoderSpec, stages: Sequence[Stage]) -> None:
        self.module: nn.Module = DecoderWithStages(model, stages).eval()
        self.spec = spec
        self._given = any(stage.by == GIVEN for stage in stages)
        # Of each layer, how many stages lie before it.
        self._stages_before = [
            sum(stage.layer <= layer for stage in stages) for layer in range(spec.layers)
        ]
        self._stages = len(stages)
        cache = cache_tensors(spec)
        kept = kept_names(len(stages))
        self.input_names: Sequence[str] = (
            "inputs_embeds",
            "position_ids",
            "picture_ids",
            *(tensor.past for tensor in cache),
            *(("visual_scores",) if self._given else ()),
        )
        self.output_names: Sequence[str] = (
            "logits",
            *kept,
            *(tensor.present for tensor in cache),
        )
        tokens = {0: BATCH, 1: "sequence_length"}
        pasts = [
            ({0: BATCH, 2: name}, {0: BATCH, 2: name})
            for name in map(_named("past_sequence_length"), self._stages_before)
        ]
        further = (tokens,) if self._given else ()
        self.dynamic_axes: tuple[Any, ...] = (tokens, tokens, tokens, pasts, *further)
        total, going = _named("total_sequence_length"), _named("sequence_length")
        self.output_axes: Mapping[str, Mapping[int, str]] = {
            "logits": {0: BATCH},
            **{name: {0: BATCH, 1: going(stage)} for stage, name in enumerate(kept, start=1)},
            **{
                tensor.present: {0: BATCH, 2: total(self._stages_before[tensor.layer])}
                for tensor in cache
            },
        }

    def sample_inputs(self) -> tuple[Any, ...]:
        """Return two sequences of seven tokens, four of them visual, after a past of which each
        stage has kept one token less."""
        batch, tokens, spec, shortest = 2, 7, self.spec, 2
        past = shortest + self._stages
        shapes = [
            (batch, spec.kv_heads, past - before, spec.head_dim) for before in self._stages_before
        ]
        return (
            torch.randn(batch, tokens, spec.hidden),
            torch.arange(past, past + tokens).repeat(batch, 1),
            torch.tensor([0, 1, 1, 1, 1, 0, 0]).repeat(batch, 1),
            [(torch.randn(shape), torch.randn(shape)) for shape in shapes],
            *([torch.rand(batch, tokens)] if self._given else []),
        )


def _named(axis: str) -> Any:
    """Return the name of an axis by the stages that lie before it."""
    return lambda stages: f"{axis}_{stages}" if stages else axis
