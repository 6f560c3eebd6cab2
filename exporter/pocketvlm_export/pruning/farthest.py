"""Knows the greedy order of what differs most from all that came before, for methods and stages
that choose so."""

import torch


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
