"""Knows a picture's rows on their way through the tower, and how some of them are kept: their share
of earlier readings, and a layer that is computed for them alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import Evidence, rows_of
from pocketvlm_export.towers import Block
from pocketvlm_export.towers.attention import attend, in_heads


@dataclass(frozen=True)
class Rows:
    """The tokens of a batch of pictures after some layers, n of each.

    Attributes:
        hidden: (B, tokens, C): [CLS] where there is one, then the patches.
        geometry: what the layers know of the picture's shape, see `Tower.geometry`.
        evidence: what the pruning method has read so far, and which tokens are there.
        layer: how many layers they have been through, which is the number of the next.
        listed: hidden states that are read in the end, by number, of the same rows.
        carried: what a stage that adds up scores from layer to layer has so far, (B, n).
    """

    hidden: torch.Tensor
    geometry: Any
    evidence: Evidence
    layer: int = 0
    listed: Mapping[int, torch.Tensor] = field(default_factory=dict)
    carried: torch.Tensor | None = None

    def after(self, hidden: torch.Tensor, listed: bool) -> "Rows":
        """Return them behind one more layer."""
        states = {**self.listed, self.layer + 1: hidden} if listed else self.listed
        return replace(self, hidden=hidden, layer=self.layer + 1, listed=states)

    def only(self, tokens: torch.Tensor, rows: torch.Tensor) -> "Rows":
        """Return some of them: int64 numbers (B, k) among the tokens that are here, ascending, and
        those of their ``rows``, (B, rows)."""
        evidence = self.evidence
        places = tokens if evidence.places is None else evidence.places.gather(1, tokens)
        cls_rows = tuple(columns_of(row, tokens) for row in evidence.cls_rows)
        return replace(
            self,
            hidden=rows_of(self.hidden, rows),
            evidence=replace(evidence, places=places, cls_rows=cls_rows),
            listed={number: rows_of(state, rows) for number, state in self.listed.items()},
            carried=None if self.carried is None else self.carried.gather(1, tokens),
        )


def squares_of(spec: VisionSpec) -> torch.Tensor:
    """Numbers of the patches of each token, row by row: int64 (N, merge^2)."""
    (rows, columns), edge = spec.grid, spec.merge
    patches = torch.arange(spec.tokens * edge**2).view(rows, edge, columns, edge)
    return patches.transpose(1, 2).reshape(spec.tokens, edge**2)


def layer_for_rows(
    block: Block,
    hidden: torch.Tensor,
    rows: torch.Tensor,
    patches: torch.Tensor | None = None,
    blocks: int = 1,
) -> torch.Tensor:
    """Return a layer's output for some of its tokens: (B, N + 1, C) and their ``rows`` (B, k, C) ->
    (B, k, C).

    ``patches`` are the numbers of those tokens, (B, k), [CLS] not counted; ``blocks`` see
    `attention.blocks_of`.
    """
    normed = block.norm1(hidden)
    keys = in_heads(block.rotate(block.key(normed), None), block)
    values = in_heads(block.value(normed), block)
    queries = in_heads(block.rotate(block.query(block.norm1(rows)), patches), block)
    context = attend(block, queries, keys, values, blocks)
    rows = rows + block.scale1(block.output(context))
    return rows + block.scale2(block.mlp(block.norm2(rows)))


def columns_of(scores: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the given columns of ``scores`` (B, heads, n), by indices (B, k): (B, heads, k)."""
    return torch.gather(scores, 2, indices.unsqueeze(1).expand(-1, scores.shape[1], -1))
