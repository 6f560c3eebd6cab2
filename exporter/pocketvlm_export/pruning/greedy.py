"""Knows how patches are picked one after another, each by what it adds to those before.

A pick does not depend on how many follow, so the first j picks are those of a budget of j. Scores
give the order: 1 - pick / N. Loops are unrolled, by `onnx_passes.UnrollPicks`, which writes the
same in ONNX. The runtime opens no graph with a loop in it, and an ONNX Loop is not faster (0.96 to
1.07 of the time, `benchmark picking`).
"""

import torch

from pocketvlm_export.pruning.base import Evidence, Selection
from pocketvlm_export.pruning.picks import FARTHEST_FIRST, WIDEST_COVER, one_by_one

_LEAST_WEIGHT = 1e-30  # of the largest; a weight of nothing would hide that a patch was picked


def farthest_first(
    distances: torch.Tensor, count: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the ``count`` first picks in order, int64: (B, N, N) -> (B, count).

    First the patch whose nearest neighbour is farthest away, then again and again the one farthest
    from all that are picked. With ``weights`` (B, N), none below 0, the first is the one that has
    the largest weight, and the distance from what is picked counts times the weight.

    The distance of each patch from its nearest pick is kept as it is, never computed again. What
    comes behind the first N picks, where ``count`` is larger, means nothing.
    """
    tokens = distances.shape[-1]
    itself = torch.eye(tokens, dtype=torch.bool)
    if weights is None:
        value = distances.masked_fill(itself, float("inf")).amin(dim=1, keepdim=True)  # (B, 1, N)
    else:
        value = weights = weights.clamp_min(_LEAST_WEIGHT).unsqueeze(1)
    # A patch that is picked is infinitely near to itself, and is not picked again.
    distances = distances.masked_fill(itself, float("-inf"))
    columns = torch.zeros_like(value, dtype=torch.int64)  # makes a pick an index for each of them
    inputs = (value, distances, columns, weights)
    return one_by_one(FARTHEST_FIRST, _farthest_first, inputs, count)


def _farthest_first(
    value: torch.Tensor,
    distances: torch.Tensor,
    columns: torch.Tensor,
    weights: torch.Tensor | None,
    count: int,
) -> torch.Tensor:
    """Four nodes per pick, five with weights."""
    nearest: torch.Tensor | None = None
    order = []
    for _ in range(count):
        pick = value.argmax(dim=2, keepdim=True)  # (B, 1, 1), of equals the first
        order.append(pick)
        row = torch.gather(distances, 1, pick + columns)  # (B, 1, N)
        nearest = row if nearest is None else torch.minimum(nearest, row)
        value = nearest if weights is None else nearest * weights
    return torch.cat(order, dim=2).squeeze(1)


def widest_cover(alike: torch.Tensor, count: int, weights: torch.Tensor) -> torch.Tensor:
    """Return the ``count`` first picks in order, int64: (B, N, N) and (B, N) -> (B, count).

    ``alike`` is symmetric; a patch is covered as far as it is like the pick that is most like it,
    at least 0. Again and again the patch is picked that adds most cover to all patches together,
    times its weight; none is below 0.

    What comes behind the first N picks, where ``count`` is larger, means nothing.
    """
    covered = torch.zeros_like(alike[:, :1])  # (B, 1, N)
    columns = torch.zeros_like(covered, dtype=torch.int64)  # makes a pick an index for each of them
    weights = weights.unsqueeze(2)  # (B, N, 1)
    # What a patch may add: less than nothing, once it is picked.
    limit = torch.full_like(weights, float("inf"))
    picked = torch.full_like(weights[:, :1], -1.0)
    inputs = (alike, covered, columns, weights, limit, picked)
    return one_by_one(WIDEST_COVER, _widest_cover, inputs, count)


def _widest_cover(
    alike: torch.Tensor,
    covered: torch.Tensor,
    columns: torch.Tensor,
    weights: torch.Tensor,
    limit: torch.Tensor,
    picked: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """Ten nodes per pick, of which three go over all N^2."""
    order = []
    for _ in range(count):
        # ``alike`` is read by rows, which lie together in memory.
        gains = (alike - covered).relu().sum(dim=2, keepdim=True) * weights
        pick = torch.minimum(gains, limit).argmax(dim=1, keepdim=True)  # (B, 1, 1)
        order.append(pick)
        row = torch.gather(alike, 1, pick + columns)  # (B, 1, N)
        covered = torch.maximum(covered, row)
        limit = limit.scatter(1, pick, picked)
    return torch.cat(order, dim=2).squeeze(1)


def in_raster_order(picks: torch.Tensor, evidence: Evidence) -> Selection:
    """Return ``picks`` (B, budget) as a selection, all N patches where there are fewer."""
    count = torch.sym_min(picks.shape[1], evidence.tokens)
    if not isinstance(count, int) or count < picks.shape[1]:  # the first: known only at run time
        picks = picks[:, :count]
    indices, pick = torch.topk(picks, count, dim=1, largest=False, sorted=True)
    return Selection(indices, 1 - pick.to(torch.float32) / evidence.tokens)
