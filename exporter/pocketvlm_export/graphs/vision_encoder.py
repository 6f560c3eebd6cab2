"""The vision graph: tower, pruning, projector. Computes only what the method reads and the kept
tokens need."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.pruning.base import LATE, Evidence, Pruner, Selection
from pocketvlm_export.towers import TOWERS, Block


class PrunedVisionEncoder(nn.Module):
    """pixel_values (B, 3, H, W) -> image_features (B, k, hidden), kept_indices (B, k), kept_scores
    (B, k).

    A method that reads attention selects as soon as the score layer's is known; from there on the
    deepest layer computes queries, output projection and MLP for kept tokens only. That is exact:
    in the last layer used, a token's output depends on other tokens through their keys and values
    alone, and those are computed for all. A method that reads features needs all of them, and one
    that reads what the projector makes of them projects all of them.

    Where a token is a square of patches (`VisionSpec.merge`), methods rank and keep whole tokens:
    attention is averaged over squares, and what is computed for a kept token is computed for all
    patches of its square.
    """

    def __init__(
        self,
        tower: PreTrainedModel,
        projector: nn.Module,
        spec: VisionSpec,
        pruner: Pruner,
        budget: int,
    ) -> None:
        super().__init__()
        self.kind = TOWERS[spec.config.model_type]
        self.embeddings = self.kind.embeddings(tower)
        self.layers = self.kind.layers(tower)
        self.final = self.kind.final(tower)
        self.projector = projector
        self.spec = spec
        self.pruner = pruner
        self.budget = budget
        self.before = int(spec.has_cls)  # tokens in front of the patches
        self.squares = _squares(spec)  # (N, patches of a token)

    def forward(
        self, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See the class."""
        hidden = self.embeddings(pixel_values)  # (B, tokens, C)
        evidence = Evidence(hidden.shape[0], self.spec.grid)
        kept: Selection | None = None
        states: dict[int, torch.Tensor] = {}  # the listed hidden states, kept patches only
        # Hidden states below the score layer are listed before it is known what is kept: held whole
        # until then.
        whole: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self.layers, start=1):
            evidence = self._watch(number - 1, layer, hidden, evidence)
            if number - 1 == self.spec.score_layer and not self.pruner.reads & LATE:
                kept = self.pruner.select(evidence, self.budget)
            if number == self.spec.depth and kept is not None:
                states[number] = layer_for_rows(
                    self.kind.block(layer), hidden, self._patches(hidden, kept.indices)
                )
            else:
                hidden = layer(hidden, None)
                if number in self.spec.feature_layers:
                    whole[number] = hidden
        if kept is None:
            every = {number: self._every(state) for number, state in whole.items()}
            return self._select_late(evidence, self._joined(every))
        states |= {number: self._patches(state, kept.indices) for number, state in whole.items()}
        return self.projector(self._joined(states)), kept.indices, kept.scores

    def _watch(
        self, number: int, layer: nn.Module, hidden: torch.Tensor, evidence: Evidence
    ) -> Evidence:
        """Add what the method reads of the layer of this number, counted from 0, which is about to
        read ``hidden``."""
        reads, last = self.pruner.reads, self.spec.score_layer
        if "cls_row" in reads and self.pruner.first_layer(last) <= number <= last:
            row = cls_attention(self.kind.block(layer), hidden)
            evidence = replace(evidence, cls_rows=(*evidence.cls_rows, row))
        if "attention" in reads and number == last:
            attention = patch_attention(self.kind.block(layer), hidden, self.before)
            evidence = replace(evidence, attention=mean_of_squares(attention, self.spec))
        return evidence

    def _select_late(
        self, evidence: Evidence, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Select by ``features`` (B, N, C); all of them are projected only where the method reads
        that."""
        if "projected" not in self.pruner.reads:
            kept = self.pruner.select(replace(evidence, features=features), self.budget)
            return self.projector(rows_of(features, kept.indices)), kept.indices, kept.scores
        projected = self.projector(features)
        kept = self.pruner.select(
            replace(evidence, features=features, projected=projected), self.budget
        )
        return rows_of(projected, kept.indices), kept.indices, kept.scores

    def _patches(self, hidden: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the patches of the given tokens, token by token: (B, tokens, C), (B, k) -> (B, k
        merge^2, C)."""
        if self.spec.merge > 1:
            indices = self.squares[indices].flatten(1)
        return rows_of(hidden, indices + self.before if self.before else indices)

    def _every(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the patches of all tokens, token by token: (B, tokens, C) -> (B, N merge^2, C)."""
        patches = hidden[:, self.before :]
        return patches if self.spec.merge == 1 else patches[:, self.squares.flatten()]

    def _joined(self, states: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """What the projector reads of each token: hidden states side by side, as they are listed,
        then its patches."""
        patches = self.final(
            torch.cat([states[index] for index in self.spec.feature_layers], dim=-1)
        )
        return (
            patches
            if self.spec.merge == 1
            else patches.unflatten(1, (-1, self.spec.merge**2)).flatten(2)
        )


def cls_attention(block: Block, hidden: torch.Tensor) -> torch.Tensor:
    """Return one row of a layer's attention: what [CLS] pays to each patch, (B, N + 1, C) -> (B,
    heads, N).

    softmax(q_cls k^T / sqrt(d)) with the [CLS] column dropped afterwards and nothing renormalised
    (FasterVLM, arXiv 2412.01818, section 3.2); costs heads x (N + 1) x d products instead of a full
    map.
    """
    normed = block.norm1(hidden)
    query = in_heads(block.query(normed[:, :1]), block)  # (B, heads, 1, d)
    keys = in_heads(block.key(normed), block)  # (B, heads, N + 1, d)
    logits = torch.matmul(query, keys.transpose(-1, -2)) * block.scaling
    return logits.softmax(dim=-1)[:, :, 0, 1:]


def patch_attention(block: Block, hidden: torch.Tensor, before: int) -> torch.Tensor:
    """Return the attention that patches pay to patches in a layer, (B, tokens, C) -> (B, heads, N,
    N).

    The softmax is over all tokens; the ``before`` tokens in front of the patches are left out of it
    afterwards.
    """
    normed = block.norm1(hidden)
    queries = in_heads(block.query(normed[:, before:]), block)  # (B, heads, N, d)
    keys = in_heads(block.key(normed), block)  # (B, heads, tokens, d)
    logits = torch.matmul(queries, keys.transpose(-1, -2)) * block.scaling
    return logits.softmax(dim=-1)[..., before:]


def mean_of_squares(attention: torch.Tensor, spec: VisionSpec) -> torch.Tensor:
    """Return what tokens pay to tokens of what patches pay to patches: (B, heads, P, P) -> (B,
    heads, N, N).

    A token's is the mean over its square of patches. Rows first: that leaves little to sum within
    them.
    """
    if spec.merge == 1:
        return attention
    (rows, columns), edge = spec.grid, spec.merge
    paid = (
        attention.unflatten(2, (rows, edge, columns, edge)).mean(dim=(3, 5)).flatten(2, 3)
    )  # (B, heads, N, P)
    return paid.unflatten(3, (rows, edge, columns, edge)).mean(dim=(4, 6)).flatten(3)


def _squares(spec: VisionSpec) -> torch.Tensor:
    """Numbers of the patches of each token, row by row: int64 (N, merge^2)."""
    (rows, columns), edge = spec.grid, spec.merge
    patches = torch.arange(spec.tokens * edge**2).view(rows, edge, columns, edge)
    return patches.transpose(1, 2).reshape(spec.tokens, edge**2)


def layer_for_rows(block: Block, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return a layer's output for some of its tokens: (B, N + 1, C) and their ``rows`` (B, k, C) ->
    (B, k, C)."""
    normed = block.norm1(hidden)
    keys, values = (in_heads(project(normed), block) for project in (block.key, block.value))
    queries = in_heads(block.query(block.norm1(rows)), block)  # (B, heads, k, d)
    # Spelt out as in eager attention, so that it is traced as that is.
    maps = (torch.matmul(queries, keys.transpose(-1, -2)) * block.scaling).softmax(
        dim=-1
    )  # (B, heads, k, N + 1)
    context = torch.matmul(maps, values)  # (B, heads, k, d)
    rows = rows + block.scale1(block.output(context.transpose(1, 2).flatten(2)))
    return rows + block.scale2(block.mlp(block.norm2(rows)))


def rows_of(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the given rows of ``tokens`` (B, n, C), by indices (B, k): (B, k, C)."""
    return torch.gather(tokens, 1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def in_heads(x: torch.Tensor, block: Block) -> torch.Tensor:
    """Split queries, keys or values by heads: (B, tokens, heads * d) -> (B, heads, tokens, d)."""
    return x.unflatten(-1, (block.heads, block.head_dim)).transpose(1, 2)


class VisionEncoderGraph:
    """`PrunedVisionEncoder` as a graph to trace."""

    kind = metadata.VISION_ENCODER
    input_names: Sequence[str] = ("pixel_values",)
    output_names: Sequence[str] = ("image_features", "kept_indices", "kept_scores")
    dynamic_axes: tuple[Any, ...] = ({0: BATCH},)
    output_axes: Mapping[str, Mapping[int, str]] = {name: {0: BATCH} for name in output_names}

    def __init__(self, module: PrunedVisionEncoder) -> None:
        self.module = module.eval()

    def sample_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return two pictures of noise."""
        return (torch.randn(2, 3, *self.module.spec.image_size),)
