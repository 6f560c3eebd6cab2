"""Knows how patches get positions from a learnt table, and which of it pictures of one size read.
That is computed once and is a constant of the graph."""

from typing import Any

import torch
from torch import nn

from pocketvlm_export import upstream


class Positioned(nn.Module):
    """Patches, [CLS] in front where there is one, and their positions in pictures of one size: (B,
    3, H, W) -> (B, tokens, C)."""

    def __init__(
        self, patches: nn.Module, positions: torch.Tensor, cls: torch.Tensor | None = None
    ) -> None:
        """``patches`` gives (B, C, rows, columns) or (B, P, C); ``positions`` are (1, tokens, C),
        ``cls`` (1, 1, C)."""
        super().__init__()
        self.patches = patches
        self.cls_token = None if cls is None else nn.Parameter(cls, requires_grad=False)
        self.positions = nn.Parameter(positions, requires_grad=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        patches = self.patches(pixel_values)
        if patches.ndim == 4:
            patches = patches.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            patches = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return patches + self.positions


def positioned(
    embeddings: Any,
    patches: nn.Module,
    size: tuple[int, int] | None,
    cls: torch.Tensor | None = None,
) -> nn.Module:
    """Return what makes the first hidden state of pictures of ``size`` (height, width):
    transformers' ``embeddings`` themselves where they are made for it, or have no table; else as
    `stretched`. None is the size that they are made for."""
    own = embeddings.image_size
    edges = tuple(own) if isinstance(own, (list, tuple)) else (own, own)
    without = getattr(embeddings, "position_embeddings", ()) is None
    if size is None or size == edges or without:
        made: nn.Module = embeddings
        return made
    return stretched(embeddings, patches, size, cls)


def stretched(
    embeddings: Any, patches: nn.Module, size: tuple[int, int], cls: torch.Tensor | None = None
) -> Positioned:
    """Return what makes the first hidden state of pictures of ``size`` (height, width), with the
    positions that transformers' ``embeddings`` interpolate for it."""
    positions = upstream.stretched_positions(embeddings, size)
    return Positioned(patches, positions, None if cls is None else cls.detach().view(1, 1, -1))
