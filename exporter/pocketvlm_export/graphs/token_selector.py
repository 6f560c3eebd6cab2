"""The two graphs of a method that reads the prompt: a vision graph that gives every token, and one
that takes some of them by the question's words."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import (
    CANDIDATE,
    CANDIDATE_FEATURES,
    TEXT_EMBEDS,
    VISION_OUTPUTS,
)
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs.base import BATCH
from pocketvlm_export.graphs.vision_encoder import PrunedVisionEncoder, VisionEncoderGraph
from pocketvlm_export.pruning.base import Evidence, Pruner, Reads, Selection, rows_of

_TOKENS, _WORDS = "tokens", "text_tokens"  # names of axes


class CandidateEncoder(nn.Module):
    """pixel_values (B, 3, H, W) -> features of all tokens (B, N, hidden), and then each of
    `VisionSpec.extras`, (B, N, hidden), tokens in raster order."""

    def __init__(
        self,
        tower: PreTrainedModel,
        projector: nn.Module,
        spec: VisionSpec,
        *,
        portable: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = PrunedVisionEncoder(
            tower, projector, spec, _EveryToken({}), spec.tokens, portable=portable
        )

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        features, _, _, *extras = self.encoder(pixel_values)
        return (features, *extras)


class CandidatesGraph(VisionEncoderGraph):
    """`CandidateEncoder` as a graph to trace."""

    kind = metadata.CANDIDATES

    def __init__(self, module: CandidateEncoder) -> None:
        super().__init__(module.encoder)
        self.module: nn.Module = module.eval()
        self.output_names, inputs = _candidates(self.spec), set(self.input_names)
        axes = {0: BATCH} if self.spec.image_size else {0: BATCH, 1: _TOKENS}
        of_pixels = {name: sizes for name, sizes in self.output_axes.items() if name in inputs}
        self.output_axes = {**of_pixels, **dict.fromkeys(self.output_names, axes)}


class TokenSelector(nn.Module):
    """Candidates (B, N, hidden) of a picture's tiles, embeddings of a question (1, T, hidden) and
    each of the further features (B, N, hidden) -> what `PrunedVisionEncoder` gives."""

    def __init__(self, spec: VisionSpec, pruner: Pruner, budget: int) -> None:
        super().__init__()
        self.spec = spec
        self.pruner = pruner
        self.budget = budget

    def forward(
        self, candidates: torch.Tensor, text: torch.Tensor, *extras: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See the class."""
        batch, tokens, _ = candidates.shape
        grid = self.spec.grid if self.spec.image_size else (1, tokens)
        kept = self.pruner.select(
            Evidence(batch, grid, projected=candidates, text=text), self.budget
        )
        features, *others = (rows_of(each, kept.indices) for each in (candidates, *extras))
        return (features, kept.indices, kept.scores, *others)


class TokenSelectorGraph:
    """`TokenSelector` as a graph to trace; where resolution is dynamic, so is N."""

    kind = metadata.SELECTOR

    def __init__(self, module: TokenSelector, hidden: int) -> None:
        self.module: nn.Module = module.eval()
        self._hidden = hidden
        self._spec = spec = module.spec
        features, *extras = _candidates(spec)
        self.input_names: Sequence[str] = (features, TEXT_EMBEDS, *extras)
        self.output_names: Sequence[str] = (*VISION_OUTPUTS, *spec.extras)
        rows: dict[int, Any] = {0: BATCH}
        kept = {0: BATCH}
        if spec.image_size is None:
            rows |= {1: torch.export.Dim(_TOKENS, min=1, max=max(spec.tokens, 8))}
            kept |= {1: "kept_tokens"}
        self.dynamic_axes: tuple[Any, ...] = (rows, {1: _WORDS})
        if extras:
            self.dynamic_axes += (tuple(rows for _ in extras),)
        self.output_axes: Mapping[str, Mapping[int, str]] = dict.fromkeys(self.output_names, kept)

    def sample_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return the tokens of two pictures, and a question of three."""
        tokens = self._spec.tokens if self._spec.image_size else 7
        rows = [torch.randn(2, tokens, self._hidden) for _ in (0, *self._spec.extras)]
        return (rows[0], torch.randn(1, 3, self._hidden), *rows[1:])


class _EveryToken(Pruner):
    """Keeps all, once the whole tower has run."""

    reads: frozenset[Reads] = frozenset({"features"})

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Every token, at score 0."""
        indices = torch.arange(evidence.tokens).expand(evidence.batch, -1)
        return Selection(indices, torch.zeros_like(indices, dtype=torch.float32))


def _candidates(spec: VisionSpec) -> tuple[str, ...]:
    return (CANDIDATE_FEATURES, *(CANDIDATE + name for name in spec.extras))
