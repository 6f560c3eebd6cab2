"""Knows where the patches of a picture are in the order of squares, and how attention within
windows is computed. Its arithmetic can be traced while sizes are unknown."""

from dataclasses import dataclass

import torch

from pocketvlm_export.towers.attention import attend, in_heads
from pocketvlm_export.towers.base import Block


@dataclass(frozen=True)
class Windows:
    """How a picture is cut into windows of S patches. Those at the right and bottom edge are filled
    up with patch 0, which nobody attends to there.

    Attributes:
        patches: numbers of the patches, window by window, int64 (windows * S,).
        bias: 0 for a patch of the window and -inf for padding, (windows, 1, 1, S).
        places: where in ``patches`` each patch of the picture is, int64 (P,).
    """

    patches: torch.Tensor
    bias: torch.Tensor
    places: torch.Tensor


def places_of(rows: int, columns: int, merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the row and the column of each patch, int64 (P,), of a picture of so many tokens of
    ``merge`` x ``merge`` patches."""
    shape = (rows, columns, merge, merge)
    inside = torch.arange(merge)
    row = torch.arange(rows).view(-1, 1, 1, 1) * merge + inside.view(1, 1, -1, 1)
    column = torch.arange(columns).view(1, -1, 1, 1) * merge + inside
    return row.expand(shape).flatten(), column.expand(shape).flatten()


def windows_of(rows: int, columns: int, side: int, merge: int) -> Windows:
    """Return the windows, ``side`` x ``side`` tokens each, of a picture of so many tokens."""
    down, across = (rows + side - 1) // side, (columns + side - 1) // side
    row = torch.arange(down * side).view(-1, 1, side, 1)
    column = torch.arange(across * side).view(1, -1, 1, side)
    exists = (row < rows) & (column < columns)  # (down, across, side, side)
    tokens = torch.where(exists, row * columns + column, 0)
    patches = tokens.unsqueeze(-1) * merge**2 + torch.arange(merge**2)
    is_patch = exists.unsqueeze(-1).expand(-1, -1, -1, -1, merge**2)
    bias = torch.where(is_patch, 0.0, float("-inf"))
    return Windows(
        patches.flatten(),
        bias.reshape(-1, 1, 1, (side * merge) ** 2),
        _places(rows, columns, side, across, merge),
    )


def attend_within(
    windows: Windows,
    block: Block,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Return the attention of each patch to those of its window, heads joined: (B, P, heads * d)
    each -> (B, P, heads * d).

    Padding exists here only: projections and the MLP are of real patches. A window's map is small,
    and all maps together grow with P alone.
    """
    (batch, _, width), (count, _, _, size) = queries.shape, windows.bias.shape
    by_window = [
        torch.index_select(part, 1, windows.patches).unflatten(1, (count, size))
        for part in (queries, keys, values)
    ]
    queries, keys, values = (in_heads(part.flatten(0, 1), block) for part in by_window)
    bias = windows.bias.repeat(batch, 1, 1, 1)
    context = attend(block, queries, keys, values, bias=bias)  # (B * windows, S, heads * d)
    whole = context.reshape(batch, count * size, width)
    return torch.index_select(whole, 1, windows.places)


def _places(rows: int, columns: int, side: int, across: int, merge: int) -> torch.Tensor:
    """Return where each patch is among those of all windows, int64 (P,)."""
    row, column = torch.arange(rows).unsqueeze(1), torch.arange(columns)
    window = row // side * across + column // side
    token = window * side**2 + row % side * side + column % side  # (rows, columns)
    return (token.unsqueeze(-1) * merge**2 + torch.arange(merge**2)).flatten()
