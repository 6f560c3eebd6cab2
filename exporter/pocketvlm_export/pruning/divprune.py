"""DivPrune: the patches that differ most from each other (Alvar et al., CVPR 2025, arXiv
2503.02175)."""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import Evidence, Pruner, Reads, Selection
from pocketvlm_export.pruning.cosines import cosines


class DivPrune(Pruner):
    """Greedy max-min over distances 1 - cosine of the projected features.

    First the patch whose nearest neighbour is farthest away, then, again and again, the one
    farthest from all that are kept. The order of picking does not depend on the budget: the j first
    picks are those of a budget of j, and scores give the order, 1 - pick / N. The authors do not
    keep the selection from picking a patch again where features are equal; here it is kept. In
    float32 whatever the precision of the graph; where several features are equal up to rounding,
    rounding decides which is picked.
    """

    name: ClassVar[str] = "divprune"
    title: ClassVar[str] = "DivPrune"
    paper: ClassVar[str] = "[arXiv 2503.02175](https://arxiv.org/abs/2503.02175)"
    keeps: ClassVar[str] = "that differ most from each other"
    reads: frozenset[Reads] = frozenset({"projected"})

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` first picks in raster order, all N patches where there are
        fewer."""
        assert evidence.projected is not None
        picks = farthest_first(1 - cosines(evidence.projected), budget)
        count = torch.sym_min(budget, evidence.tokens)
        if not isinstance(count, int):  # known only at run time
            picks = picks[:, :count]
        indices, pick = torch.topk(picks, count, dim=1, largest=False, sorted=True)
        return Selection(indices, 1 - pick.to(torch.float32) / evidence.tokens)


def farthest_first(distances: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ``count`` first picks in order, int64: (B, N, N) -> (B, count).

    Unrolled, four nodes a pick: the distance of each patch from its nearest pick is kept as it is,
    never computed anew. What comes behind the first N picks, where ``count`` is larger, means
    nothing.
    """
    tokens = distances.shape[-1]
    itself = torch.eye(tokens, dtype=torch.bool)
    nearest = distances.masked_fill(itself, float("inf")).amin(dim=1, keepdim=True)  # (B, 1, N)
    # A patch that is picked is infinitely near to itself, and is not picked again.
    distances = distances.masked_fill(itself, float("-inf"))
    picks = []
    for number in range(count):
        pick = nearest.argmax(dim=2, keepdim=True)  # (B, 1, 1), of equals the first
        picks.append(pick)
        row = torch.gather(distances, 1, pick.expand(-1, -1, tokens))  # (B, 1, N)
        nearest = row if number == 0 else torch.minimum(nearest, row)
    return torch.cat(picks, dim=2).squeeze(1)
