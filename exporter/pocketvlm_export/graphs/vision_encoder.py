"""The vision graph: tower, pruning, projector. Computes only what the method reads and the kept
tokens need."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import VISION_OUTPUTS
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.pruning.base import LATE, Evidence, Pruner, Selection
from pocketvlm_export.towers import TOWERS, Block
from pocketvlm_export.towers.attention import attend, blocks_of, in_heads, received


class PrunedVisionEncoder(nn.Module):
    """pixel_values (B, 3, H, W) -> image_features (B, k, hidden), kept_indices (B, k), kept_scores
    (B, k), with k = min(budget, N), and then each of `VisionSpec.extras`, (B, k, hidden).

    A method that reads attention selects as soon as the score layer's is known; from there on the
    deepest layer computes queries, output projection and MLP for kept tokens only. That is exact:
    in the last layer used, a token's output depends on other tokens through their keys and values
    alone, and those are computed for all. A method that reads features needs all of them, and one
    that reads what the projector makes of them projects all of them. One that merges what it drops
    into what it keeps is one of these two: what is dropped has to have been computed.

    Where a token is a square of patches (`VisionSpec.merge`), methods rank and keep whole tokens:
    attention is averaged over squares, and what is computed for a kept token is computed for all
    patches of its square. ``kept_indices`` count tokens in raster order, in whichever order the
    tower has its patches.

    Where resolution is dynamic, so are H, W and N, and no layer holds a map of all patches by all
    patches: attention is fused afterwards, or, where the graph is to be ``portable``, computed by
    blocks of queries, as scores always are. How many blocks follows from the largest picture.
    """

    def __init__(
        self,
        tower: PreTrainedModel,
        projector: nn.Module,
        spec: VisionSpec,
        pruner: Pruner,
        budget: int,
        *,
        portable: bool = False,
    ) -> None:
        super().__init__()
        self.kind = TOWERS[spec.config.model_type]
        self.embeddings = self.kind.embeddings(tower, spec.image_size)
        self.layers = self.kind.layers(tower)
        self.final = self.kind.final(tower) if spec.normed else nn.Identity()
        extras = self.kind.extras(tower)
        self.extra_layers = {name: extras[name].layer for name in spec.extras}
        self.extra_projectors = nn.ModuleDict({name: extras[name].project for name in spec.extras})
        self.projector = projector
        self.spec = spec
        self.pruner = pruner
        self.budget = budget
        self.before = int(spec.has_cls)  # tokens in front of the patches
        # Numbers of the patches of each token, (N, merge^2); counted where squares follow one
        # another.
        self.squares = _squares(spec) if self.kind.order == "raster" else None
        self.portable = portable

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        hidden = self.embeddings(pixel_values)  # (B, tokens, C)
        grid = self.spec.grid_of(pixel_values.shape[2], pixel_values.shape[3])
        geometry = self.kind.geometry(self.spec.config, *grid, self._blocks_of(self.spec.sequence))
        evidence = Evidence(hidden.shape[0], grid)
        kept: Selection | None = None
        listed = {*self.spec.feature_layers, *self.extra_layers.values()}
        last: torch.Tensor | None = None  # the deepest hidden state, kept patches only
        # Hidden states below the score layer are listed before it is known what is kept: held whole
        # until then.
        whole: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self.layers, start=1):
            block = self.kind.block(layer, geometry)
            evidence = self._watch(number - 1, block, hidden, evidence)
            if number - 1 == self.spec.score_layer and not self.pruner.reads & LATE:
                kept = self.pruner.select(evidence, self.budget)
            if number == self.spec.depth and kept is not None:
                patches = self._patches_of(kept.indices)
                rows = rows_of(hidden, self._behind_cls(patches))
                blocks = self._blocks_of(self.budget * self.spec.merge**2)
                last = layer_for_rows(block, hidden, rows, patches, blocks)
            else:
                hidden = self.kind.run(layer, number - 1, hidden, geometry)
                if number in listed:
                    whole[number] = hidden
        if kept is None:
            every = {number: self._every(state) for number, state in whole.items()}
            features, kept = self._select_late(evidence, self._joined(every))
            extras = self._extras_of(self._kept_patches(whole, kept))
            return (features, kept.indices, kept.scores, *extras)
        states = self._kept_patches(whole, kept)
        states |= {} if last is None else {self.spec.depth: last}
        features = self.projector(self._joined(states))
        return (features, kept.indices, kept.scores, *self._extras_of(states))

    def _kept_patches(
        self, whole: Mapping[int, torch.Tensor], kept: Selection
    ) -> dict[int, torch.Tensor]:
        """Return the patches of the kept tokens of hidden states: (B, tokens, C) each -> (B, k
        merge^2, C)."""
        return {
            number: rows_of(state, self._behind_cls(self._patches_of(kept.indices)))
            for number, state in whole.items()
        }

    def _extras_of(self, states: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """Return the further features of the kept tokens, (B, k, hidden) each."""
        return [
            project(self._squared(states[self.extra_layers[name]]))
            for name, project in self.extra_projectors.items()
        ]

    def _watch(
        self, number: int, block: Block, hidden: torch.Tensor, evidence: Evidence
    ) -> Evidence:
        """Add what the method reads of the layer of this number, counted from 0, which is about to
        read ``hidden``."""
        reads, last = self.pruner.reads, self.spec.score_layer
        if "cls_row" in reads and self.pruner.first_layer(last) <= number <= last:
            row = self._token_means(cls_attention(block, hidden), evidence)
            evidence = replace(evidence, cls_rows=(*evidence.cls_rows, row))
        if "received" in reads and number == last:
            evidence = replace(evidence, received=self._received(block, hidden, evidence))
        if "keys" in reads and number == last:
            keys = self._token_means(patch_keys(block, hidden, self.before), evidence)
            evidence = replace(evidence, keys=keys.transpose(1, 2))
        return evidence

    def _received(self, block: Block, hidden: torch.Tensor, evidence: Evidence) -> torch.Tensor:
        """Return the attention that tokens receive in a layer: (B, N)."""
        patches = self.spec.tokens * self.spec.merge**2
        blocks = blocks_of(block.heads, patches, self.spec.sequence)
        if blocks == 1 and self.kind.order == "raster":
            attention = patch_attention(block, hidden, self.before)
            return mean_of_squares(attention, self.spec).mean(dim=(1, 2))
        normed = block.norm1(hidden)
        queries = in_heads(block.rotate(block.query(normed[:, self.before :]), None), block)
        keys = in_heads(block.rotate(block.key(normed), None), block)
        paid = received(block, queries, keys, self.before, blocks)
        return self._token_means(paid, evidence)

    def _token_means(self, patches: torch.Tensor, evidence: Evidence) -> torch.Tensor:
        """Return the mean over the patches of each token: (..., P) -> (..., N)."""
        (rows, columns), edge = evidence.grid, self.spec.merge
        if edge == 1:
            return patches
        if self.kind.order == "squares":
            return patches.unflatten(-1, (rows * columns, edge**2)).mean(dim=-1)
        return patches.unflatten(-1, (rows, edge, columns, edge)).mean(dim=(-3, -1)).flatten(-2)

    def _select_late(
        self, evidence: Evidence, features: torch.Tensor
    ) -> tuple[torch.Tensor, Selection]:
        """Select by ``features`` (B, N, C); all of them are projected only where the method reads
        that. What the method merged takes the place of the rows that it kept."""
        if "projected" not in self.pruner.reads:
            kept = self.pruner.select(replace(evidence, features=features), self.budget)
            return self.projector(kept_rows(features, kept)), kept
        projected = self.projector(features)
        kept = self.pruner.select(
            replace(evidence, features=features, projected=projected), self.budget
        )
        return kept_rows(projected, kept), kept

    def _patches_of(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the numbers of the patches of the given tokens, token by token, in the tower's
        order: (B, k) -> (B, k merge^2)."""
        if self.spec.merge == 1:
            return indices
        if self.squares is not None:
            return self.squares[indices].flatten(1)
        size = self.spec.merge**2
        return (indices.unsqueeze(-1) * size + torch.arange(size)).flatten(1)

    def _behind_cls(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the numbers of patches among all tokens."""
        return patches + self.before if self.before else patches

    def _blocks_of(self, queries: int) -> int:
        """How many blocks so many queries are split into where they attend to all patches."""
        if not self.portable:
            return 1
        return blocks_of(self.spec.dimensions.heads, queries, self.spec.sequence)

    def _every(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the patches of all tokens, token by token: (B, tokens, C) -> (B, N merge^2, C)."""
        patches = hidden[:, self.before :]
        if self.spec.merge == 1 or self.squares is None:
            return patches
        return patches[:, self.squares.flatten()]

    def _joined(self, states: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """What the projector reads of each token: hidden states side by side, as they are listed,
        then its patches behind one another, or their mean."""
        patches = self.final(
            torch.cat([states[index] for index in self.spec.feature_layers], dim=-1)
        )
        squared = self._squared(patches)
        if self.spec.pool == "mean" and self.spec.merge > 1:
            return squared.unflatten(-1, (self.spec.merge**2, -1)).mean(dim=2)
        return squared

    def _squared(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the patches of each token behind one another: (B, n merge^2, C) -> (B, n, merge^2
        C)."""
        if self.spec.merge == 1:
            return patches
        return patches.unflatten(1, (-1, self.spec.merge**2)).flatten(2)


def cls_attention(block: Block, hidden: torch.Tensor) -> torch.Tensor:
    """Return one row of a layer's attention: what [CLS] pays to each patch, (B, N + 1, C) -> (B,
    heads, N).

    softmax(q_cls k^T / sqrt(d)) with the [CLS] column dropped afterwards and nothing renormalised
    (FasterVLM, arXiv 2412.01818, section 3.2); costs heads x (N + 1) x d products instead of a full
    map. N counts patches here. No tower with [CLS] rotates queries and keys.
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
    queries = in_heads(block.rotate(block.query(normed[:, before:]), None), block)
    keys = in_heads(block.rotate(block.key(normed), None), block)  # (B, heads, tokens, d)
    logits = torch.matmul(queries, keys.transpose(-1, -2)) * block.scaling
    return logits.softmax(dim=-1)[..., before:]


def patch_keys(block: Block, hidden: torch.Tensor, before: int) -> torch.Tensor:
    """Return the keys of the patches in a layer, the mean over heads: (B, tokens, C) -> (B, d,
    P)."""
    keys = in_heads(block.rotate(block.key(block.norm1(hidden)), None), block)
    return keys[:, :, before:].mean(dim=1).transpose(1, 2)


def mean_of_squares(attention: torch.Tensor, spec: VisionSpec) -> torch.Tensor:
    """Return what tokens pay to tokens of what patches pay to patches: (B, heads, P, P) -> (B,
    heads, N, N).

    A token's is the mean over its square of patches. Rows first: that leaves little to sum within
    them. Patches are in raster order, ``spec`` of one size.
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


def rows_of(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the given rows of ``tokens`` (B, n, C), by indices (B, k): (B, k, C)."""
    return torch.gather(tokens, 1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def kept_rows(tokens: torch.Tensor, kept: Selection) -> torch.Tensor:
    """Return what stands at the kept places: rows of ``tokens`` (B, n, C), or what a method merged,
    (B, k, C)."""
    return rows_of(tokens, kept.indices) if kept.features is None else kept.features


class VisionEncoderGraph:
    """`PrunedVisionEncoder` as a graph to trace; where resolution is dynamic, so are the height and
    width of ``pixel_values`` and the number of kept tokens."""

    kind = metadata.VISION_ENCODER
    input_names: Sequence[str] = ("pixel_values",)

    def __init__(self, module: PrunedVisionEncoder) -> None:
        self.module = module.eval()
        self.spec = module.spec
        self.output_names: Sequence[str] = (*VISION_OUTPUTS, *self.spec.extras)
        self.dynamic_axes: tuple[Any, ...] = ({0: BATCH},)
        self.output_axes: Mapping[str, Mapping[int, str]] = {
            name: {0: BATCH} for name in self.output_names
        }
        if self.spec.image_size is None:
            self.dynamic_axes = ({0: BATCH, 2: self._edges("rows"), 3: self._edges("columns")},)
            kept = {0: BATCH, 1: "kept_tokens"}
            self.output_axes = {
                "pixel_values": {2: "height", 3: "width"},
                **dict.fromkeys(self.output_names, kept),
            }

    def sample_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return two pictures of noise; of sizes that no window fits, where any size is allowed."""
        size = self.spec.image_size or (self.spec.factor * 5, self.spec.factor * 7)
        return (torch.randn(2, 3, *size),)

    def _edges(self, name: str) -> Any:
        """Sizes of an edge in pixels: as many tokens as the largest picture has in all, or
        fewer."""
        return self.spec.factor * torch.export.Dim(name, min=1, max=max(self.spec.tokens, 8))
