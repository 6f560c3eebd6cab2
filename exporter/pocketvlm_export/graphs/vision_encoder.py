"""The vision graph: tower, pruning by its [CLS] attention, projector. Computes only what the kept tokens need."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.pruning import Evidence, Pruner, Selection
from pocketvlm_export.towers import TOWERS, Block


class PrunedVisionEncoder(nn.Module):
    """pixel_values (B, 3, H, W) -> image_features (B, k, hidden), kept_indices (B, k), kept_scores (B, k).

    The selection is made as soon as the score layer's [CLS] row is known; from there on the deepest layer computes
    queries, output projection and MLP for kept tokens only. That is exact: in the last layer used, a token's output
    depends on other tokens through their keys and values alone, and those are computed for all.
    """

    def __init__(
        self, tower: PreTrainedModel, projector: nn.Module, spec: VisionSpec, pruner: Pruner, budget: int
    ) -> None:
        super().__init__()
        self.kind = TOWERS[spec.config.model_type]
        self.embeddings = self.kind.embeddings(tower)
        self.layers = self.kind.layers(tower)
        self.projector = projector
        self.spec = spec
        self.pruner = pruner
        self.budget = budget

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See the class."""
        hidden = self.embeddings(pixel_values)  # (B, N + 1, C)
        kept = None if self.pruner.prunes else self._keep_all(hidden)
        states: dict[int, torch.Tensor] = {}  # the listed hidden states, kept patches only
        listed = dict.fromkeys(self.spec.feature_layers)
        # Hidden states below the score layer are listed before it is known what is kept: held whole until then.
        whole: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self.layers, start=1):
            if kept is None and number - 1 == self.spec.score_layer:
                kept = self.pruner.select(Evidence(cls_row=cls_attention(self.kind.block(layer), hidden)), self.budget)
            if number == self.spec.depth:
                assert kept is not None
                states[number] = layer_for_rows(self.kind.block(layer), hidden, patch_rows(hidden, kept.indices))
            else:
                hidden = layer(hidden, None)
                if number in listed:
                    whole[number] = hidden
        assert kept is not None
        states |= {number: patch_rows(state, kept.indices) for number, state in whole.items()}
        features = torch.cat([states[index] for index in self.spec.feature_layers], dim=-1)  # (B, k, C * listed)
        return self.projector(features), kept.indices, kept.scores

    def _keep_all(self, hidden: torch.Tensor) -> Selection:
        """Every patch, at score 0: nothing was ranked."""
        indices = torch.arange(self.spec.tokens, device=hidden.device).expand(hidden.shape[0], -1)
        return Selection(indices, torch.zeros_like(indices, dtype=torch.float32))


def cls_attention(block: Block, hidden: torch.Tensor) -> torch.Tensor:
    """Return one row of a layer's attention: what [CLS] pays to each patch, (B, N + 1, C) -> (B, heads, N).

    softmax(q_cls k^T / sqrt(d)) with the [CLS] column dropped afterwards and nothing renormalised (FasterVLM,
    arXiv 2412.01818, section 3.2); costs heads x (N + 1) x d products instead of a full map.
    """
    normed = block.norm1(hidden)
    query = _heads(block.query(normed[:, :1]), block)  # (B, heads, 1, d)
    keys = _heads(block.key(normed), block)  # (B, heads, N + 1, d)
    logits = torch.matmul(query, keys.transpose(-1, -2)) * block.scaling
    return logits.softmax(dim=-1)[:, :, 0, 1:]


def layer_for_rows(block: Block, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return a layer's output for some of its tokens: (B, N + 1, C) and their ``rows`` (B, k, C) -> (B, k, C)."""
    normed = block.norm1(hidden)
    keys, values = (_heads(project(normed), block) for project in (block.key, block.value))
    queries = _heads(block.query(block.norm1(rows)), block)  # (B, heads, k, d)
    # Spelt out as in eager attention, so that it is traced as that is.
    maps = (torch.matmul(queries, keys.transpose(-1, -2)) * block.scaling).softmax(dim=-1)  # (B, heads, k, N + 1)
    context = torch.matmul(maps, values)  # (B, heads, k, d)
    rows = rows + block.scale1(block.output(context.transpose(1, 2).flatten(2)))
    return rows + block.scale2(block.mlp(block.norm2(rows)))


def patch_rows(hidden: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the given patches of ``hidden`` (B, N + 1, C), whose row 0 is [CLS]: indices (B, k) -> (B, k, C)."""
    return torch.gather(hidden, 1, (indices + 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


def _heads(x: torch.Tensor, block: Block) -> torch.Tensor:
    return x.unflatten(-1, (block.heads, block.head_dim)).transpose(1, 2)  # (B, heads, tokens, d)


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
