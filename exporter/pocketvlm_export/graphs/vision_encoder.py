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
from pocketvlm.artifact.stages import Stage
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.graphs.readings import (
    cls_attention,
    keys_of,
    mean_of_squares,
    patch_attention,
    received_by_patches,
    values_of,
)
from pocketvlm_export.graphs.tower_rows import Rows, layer_for_rows, squares_of
from pocketvlm_export.pruning.base import LATE, Evidence, Pruner, Selection, rows_of
from pocketvlm_export.tower_stages import make_criterion
from pocketvlm_export.tower_stages.base import Criterion, RowReads, Seen
from pocketvlm_export.towers import TOWERS, Block
from pocketvlm_export.towers.attention import blocks_of


class PrunedVisionEncoder(nn.Module):
    """pixel_values (B, 3, H, W) -> image_features (B, k, hidden), kept_indices (B, k), kept_scores
    (B, k), with k = min(budget, N), and then each of `VisionSpec.extras`, (B, k, hidden).

    Layers run in segments. Between two of them a stage may drop tokens, [CLS] never; all that is
    read of later layers is of those that are left. What is kept in the end is selected like that
    too, by the method, and nothing runs behind it.

    Where scores are known before a layer's output is, as those of its attention are, the layer
    computes queries, output projection and MLP for what is kept only. That is exact: what a token
    gives to others in a layer are its key and value alone, and those are computed for all. A method
    or stage that reads a layer's output needs it of all tokens, and a method that reads what the
    projector makes of them projects all of them. One that merges what it drops into what it keeps
    is one of these: what is dropped has to have been computed.

    Where a token is a square of patches (`VisionSpec.merge`), methods and stages rank and keep
    whole tokens. Attention is averaged over squares, and a kept token is computed for all patches
    of its square. ``kept_indices`` count the tokens of the whole picture in raster order, in
    whichever order the tower has its patches, and whatever stages dropped.

    Where resolution is dynamic, so are H, W and N, and no layer holds a map of all patches by all
    patches. Attention is fused afterwards, or, in a ``portable`` graph, computed by blocks of
    queries, as scores always are. How many blocks follows from the largest picture.
    """

    def __init__(
        self,
        tower: PreTrainedModel,
        projector: nn.Module,
        spec: VisionSpec,
        pruner: Pruner,
        budget: int,
        *,
        stages: Sequence[Stage] = (),
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
        self.stages = tuple((stage, make_criterion(stage.by)) for stage in stages)
        self.carrier = next((each for _, each in self.stages if each.watches), None)
        self.listed = {*spec.feature_layers, *self.extra_layers.values()}
        self.before = int(spec.has_cls)  # tokens in front of the patches
        # Numbers of the patches of each token, (N, merge^2); counted where squares follow one
        # another.
        self.squares = squares_of(spec) if self.kind.order == "raster" else None
        self.portable = portable

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        rows = self._begin(pixel_values)
        for stage, criterion in self.stages:
            rows = self._dropped(rows, stage, criterion)
        if self.pruner.reads & LATE:
            rows = self._through(rows, self.spec.depth)
            features, kept = self._select_late(rows)
            rows = rows.only(kept.indices, self._rows_of(rows, kept.indices))
        else:
            rows = self._watched(self._through(rows, self.spec.depth - 1))
            kept = self.pruner.select(rows.evidence, self.budget)
            rows = self._layer_for(rows, kept.indices, self.budget)
            features = self.projector(self._joined(rows.listed))
        assert rows.evidence.places is not None
        return (features, rows.evidence.places, kept.scores, *self._extras_of(rows.listed))

    def _begin(self, pixel_values: torch.Tensor) -> Rows:
        hidden = self.embeddings(pixel_values)  # (B, tokens, C)
        grid = self.spec.grid_of(pixel_values.shape[2], pixel_values.shape[3])
        geometry = self.kind.geometry(self.spec.config, *grid, self._blocks_of(self.spec.sequence))
        return Rows(hidden, geometry, Evidence(hidden.shape[0], grid))

    # Segments and stages.

    def _through(self, rows: Rows, stop: int) -> Rows:
        """Run the layers up to number ``stop``, which is not run."""
        while rows.layer < stop:
            rows = self._watched(rows)
            layer = self.layers[rows.layer]
            hidden = self.kind.run(layer, rows.layer, rows.hidden, rows.geometry)
            rows = rows.after(hidden, rows.layer + 1 in self.listed)
        return rows

    def _dropped(self, rows: Rows, stage: Stage, criterion: Criterion) -> Rows:
        """Run the layers up to a stage's, and return what continues from there."""
        if criterion.reads_output:
            rows = self._through(rows, stage.layer)
            kept = criterion.choose(self._seen(rows, criterion.reads), stage.keep)
            return rows.only(kept, self._rows_of(rows, kept, with_cls=True))
        rows = self._watched(self._through(rows, stage.layer - 1))
        kept = criterion.choose(self._seen(rows, criterion.reads), stage.keep)
        return self._layer_for(rows, kept, stage.keep, with_cls=True)

    def _layer_for(
        self, rows: Rows, tokens: torch.Tensor, count: int, with_cls: bool = False
    ) -> Rows:
        """Run the next layer for some tokens alone, at most ``count`` of each picture: int64 (B, k)
        among those that are there."""
        block = self._block(rows)
        kept = rows.only(tokens, self._rows_of(rows, tokens, with_cls))
        blocks = self._blocks_of(count * self.spec.merge**2 + self.before * with_cls)
        hidden = layer_for_rows(
            block, rows.hidden, kept.hidden, self._patches_of(rows, tokens), blocks
        )
        return kept.after(hidden, rows.layer + 1 in self.listed)

    def _block(self, rows: Rows) -> Block:
        """The parts of the layer that is next."""
        return self.kind.block(self.layers[rows.layer], rows.geometry)

    # What is read of layers.

    def _watched(self, rows: Rows) -> Rows:
        """Add what the method, and a stage that adds up scores, read of the layer that is next."""
        evidence, block = rows.evidence, self._block(rows)
        reads, last = self.pruner.reads, self.spec.score_layer
        if "cls_row" in reads and self.pruner.first_layer(last) <= rows.layer <= last:
            cls_rows = (*evidence.cls_rows, self._cls_row(block, rows))
            evidence = replace(evidence, cls_rows=cls_rows)
        if "received" in reads and rows.layer == last:
            evidence = replace(evidence, received=self._received(block, rows))
        if "keys" in reads and rows.layer == last:
            evidence = replace(evidence, keys=self._keys(block, rows))
        if self.carrier is not None and rows.layer < self.stages[-1][0].layer:
            carried = self.carrier.carry(self._seen(rows, self.carrier.watches))
            rows = replace(rows, carried=carried)
        return replace(rows, evidence=evidence)

    def _seen(self, rows: Rows, reads: frozenset[RowReads]) -> Seen:
        """Return what a stage reads: of the layer that is next, and of the rows as they are."""
        evidence, block, hidden = rows.evidence, self._block(rows), rows.hidden
        seen = Seen(
            evidence.batch, evidence.grid, evidence.tokens, evidence.places, carried=rows.carried
        )
        if "cls_row" in reads:
            seen = replace(seen, cls_row=self._cls_row(block, rows))
        if "received" in reads:
            seen = replace(seen, received=self._received(block, rows))
        if "keys" in reads:
            seen = replace(seen, keys=self._keys(block, rows))
        if "values" in reads:
            values = values_of(block, hidden).transpose(2, 3)  # (B, heads, d, tokens)
            patches = self._token_means(values[..., self.before :], evidence).transpose(2, 3)
            seen = replace(seen, values=patches, cls_value=values[..., : self.before].squeeze(3))
        if "hidden" in reads:
            seen = replace(seen, hidden=self._squared(self._every(rows, hidden)))
        return seen

    def _cls_row(self, block: Block, rows: Rows) -> torch.Tensor:
        """Return the attention that [CLS] pays to tokens in a layer: (B, heads, n)."""
        return self._token_means(cls_attention(block, rows.hidden), rows.evidence)

    def _keys(self, block: Block, rows: Rows) -> torch.Tensor:
        """Return the keys of tokens in a layer, the mean over heads: (B, n, d)."""
        keys = keys_of(block, rows.hidden, self.before).transpose(1, 2)  # (B, d, P)
        return self._token_means(keys, rows.evidence).transpose(1, 2)

    def _received(self, block: Block, rows: Rows) -> torch.Tensor:
        """Return the attention that tokens receive in a layer: (B, n)."""
        evidence, raster = rows.evidence, self.kind.order == "raster"
        tokens = self.spec.tokens if evidence.places is None else evidence.tokens
        blocks = blocks_of(block.heads, tokens * self.spec.merge**2, self.spec.sequence)
        if blocks == 1 and raster and evidence.places is None:
            attention = patch_attention(block, rows.hidden, self.before)
            return mean_of_squares(attention, self.spec).mean(dim=(1, 2))
        paid = received_by_patches(block, rows.hidden, self.before, blocks)
        return self._token_means(paid, evidence)

    def _token_means(self, patches: torch.Tensor, evidence: Evidence) -> torch.Tensor:
        """Return the mean over the patches of each token: (..., P) -> (..., n)."""
        (rows, columns), edge = evidence.grid, self.spec.merge
        if edge == 1:
            return patches
        if evidence.places is not None:
            return patches.unflatten(-1, (evidence.tokens, edge**2)).mean(dim=-1)
        if self.kind.order == "squares":
            return patches.unflatten(-1, (rows * columns, edge**2)).mean(dim=-1)
        return patches.unflatten(-1, (rows, edge, columns, edge)).mean(dim=(-3, -1)).flatten(-2)

    # Tokens and their patches.

    def _patches_of(self, rows: Rows, tokens: torch.Tensor) -> torch.Tensor:
        """Return the numbers of the patches of the given tokens among the patches that are there,
        token by token: (B, k) -> (B, k merge^2).

        Once a stage dropped some, the patches of a token follow one another in every tower.
        """
        if self.spec.merge == 1:
            return tokens
        if self.squares is not None and rows.evidence.places is None:
            return self.squares[tokens].flatten(1)
        size = self.spec.merge**2
        return (tokens.unsqueeze(-1) * size + torch.arange(size)).flatten(1)

    def _rows_of(self, rows: Rows, tokens: torch.Tensor, with_cls: bool = False) -> torch.Tensor:
        """Return the numbers of the rows of the given tokens, behind that of [CLS] where it is kept
        too."""
        patches = self._patches_of(rows, tokens)
        if not self.before:
            return patches
        numbers = patches + self.before
        return torch.cat([torch.zeros_like(numbers[:, :1]), numbers], 1) if with_cls else numbers

    def _every(self, rows: Rows, hidden: torch.Tensor) -> torch.Tensor:
        """Return the patches of all tokens, token by token: (B, tokens, C) -> (B, n merge^2, C)."""
        patches = hidden[:, self.before :]
        if self.spec.merge == 1 or self.squares is None or rows.evidence.places is not None:
            return patches
        return patches[:, self.squares.flatten()]

    def _blocks_of(self, queries: int) -> int:
        """How many blocks so many queries are split into where they attend to all patches."""
        if not self.portable:
            return 1
        return blocks_of(self.spec.dimensions.heads, queries, self.spec.sequence)

    # What is read of the tower.

    def _select_late(self, rows: Rows) -> tuple[torch.Tensor, Selection]:
        """Select by what the projector reads, (B, n, C); all of it is projected only where the
        method reads that. What the method merged takes the place of the rows that it kept."""
        every = {number: self._every(rows, state) for number, state in rows.listed.items()}
        features = self._joined(every)
        evidence = replace(rows.evidence, features=features)
        if "projected" not in self.pruner.reads:
            kept = self.pruner.select(evidence, self.budget)
            return self.projector(kept_rows(features, kept)), kept
        projected = self.projector(features)
        kept = self.pruner.select(replace(evidence, projected=projected), self.budget)
        return kept_rows(projected, kept), kept

    def _extras_of(self, states: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """Return the further features of the kept tokens, (B, k, hidden) each."""
        return [
            project(self._squared(states[self.extra_layers[name]]))
            for name, project in self.extra_projectors.items()
        ]

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
