"""CDPruner: patches that a question is about and that differ from each other (Zhang et al., NeurIPS
2025, arXiv 2506.10967), in the form that OpenVINO GenAI gave it.

The paper measures relevance by CLIP's text tower; OpenVINO by the decoder's own input embeddings,
so that any model will do. OpenVINO has two kernels: a linear blend, which its compiled model
computes, and r_i S_ij r_j with r = exp(a r), which its fallback does. Here it is the first. Its
splitting of tokens into two halves, and the paper's min and max over all tiles together, are left
out: selection is per picture or tile.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import Evidence, Pruner, Reads, Selection
from pocketvlm_export.pruning.greedy import in_raster_order
from pocketvlm_export.pruning.options import Option
from pocketvlm_export.pruning.picks import GREEDY_MAP, one_by_one

EPS = 1e-6  # OpenVINO's, in norms, in the range of relevance and under the root


class CDPruner(Pruner):
    """Greedy MAP inference of a determinantal point process with the kernel K = (1 - w) S_ij + w
    r_i S_ij r_j.

    S_ij are cosines of projected features, r_i is the cosine of a feature with the mean input
    embedding of the question's tokens, brought to 0..1 over the picture, w is ``relevance_weight``.
    The order of picking does not depend on the budget: the j first picks are those of a budget of
    j. The score of a pick is 1 - pick / N, which gives that order. Beyond the rank of the kernel no
    patch adds anything, and rounding decides which is picked, but never one again. In float32
    whatever the precision of the graphs.
    """

    name: ClassVar[str] = "cdpruner"
    title: ClassVar[str] = "CDPruner (as in OpenVINO GenAI)"
    paper: ClassVar[str] = "[arXiv 2506.10967](https://arxiv.org/abs/2506.10967)"
    keeps: ClassVar[str] = "that the question is about and that differ most from each other"
    reads: frozenset[Reads] = frozenset({"projected", "text"})
    accepts: ClassVar[Mapping[str, Option]] = {"relevance_weight": Option(float, 0.0, 1.0, 0.5)}

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` first picks in raster order, all N patches where there are
        fewer."""
        assert evidence.projected is not None
        assert evidence.text is not None
        units = _units(evidence.projected)
        words = _units(evidence.text.mean(dim=1, keepdim=True))  # (1, 1, hidden)
        relevance = normalised(torch.matmul(units, words.transpose(1, 2)).squeeze(2))  # (B, N)
        alike = torch.matmul(units, units.transpose(1, 2))
        weight = float(self.options["relevance_weight"])
        pairs = relevance.unsqueeze(2) * relevance.unsqueeze(1)
        picks = greedy_map(alike * ((1 - weight) + weight * pairs), budget)
        return in_raster_order(picks, evidence)


def normalised(relevance: torch.Tensor) -> torch.Tensor:
    """Return each row brought to 0..1: (B, N) -> (B, N); all 0 where all are equal."""
    low = relevance.amin(dim=1, keepdim=True)
    high = relevance.amax(dim=1, keepdim=True)
    return (relevance - low) / (high - low + EPS)


def greedy_map(kernel: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ``count`` first picks in order, int64: (B, N, N) -> (B, count).

    Each is the patch that adds most to the determinant of those picked (Chen et al. 2018, arXiv
    1709.05135). What comes behind the first N picks, where ``count`` is larger, means nothing.
    """
    gain = torch.diagonal(kernel, dim1=1, dim2=2).unsqueeze(1)  # (B, 1, N), what each would add
    inputs = (
        kernel,
        gain,
        torch.arange(kernel.shape[-1]),
        torch.zeros_like(gain, dtype=torch.int64),
    )
    return one_by_one(GREEDY_MAP, _greedy_map, inputs, count)


def _greedy_map(
    kernel: torch.Tensor,
    gain: torch.Tensor,
    number: torch.Tensor,
    columns: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """Unrolled: a row of the Cholesky factor a pick."""
    picks: list[torch.Tensor] = []
    factor: torch.Tensor | None = None  # (B, picks, N)
    for _ in range(count):
        pick = gain.argmax(dim=2, keepdim=True)  # (B, 1, 1), of equals the first
        picks.append(pick)
        row = torch.gather(kernel, 1, pick + columns)  # (B, 1, N)
        if factor is not None:
            column = torch.gather(factor, 2, pick.expand(-1, factor.shape[1], -1))
            row = row - torch.matmul(column.transpose(1, 2), factor)
        row = row / torch.sqrt(torch.gather(gain, 2, pick).clamp_min(0) + EPS)
        factor = row if factor is None else torch.cat([factor, row], dim=1)
        gain = gain - row.square()
        gain = torch.where(number == pick, float("-inf"), gain)  # never picked again
    return torch.cat(picks, dim=2).squeeze(1)


def _units(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors of length 1: (..., C) -> (..., C).

    Not as `cosines.units`: the epsilon stands under the root, as OpenVINO has it, so that a short
    vector is less than 1 long, and a patch of almost nothing adds almost nothing.
    """
    return vectors / torch.sqrt(vectors.square().sum(dim=-1, keepdim=True) + EPS)
