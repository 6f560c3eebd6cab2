"""SigLIP2's vision tower for pictures of any size (``siglip2_vision_model``): no [CLS], a norm
behind the layers, a square table of positions that is resized to each picture.

The resizing is linear, and the same along rows as along columns: two small matrices by plain
arithmetic, which is traced. So one graph serves pictures of every size. The patches of a token
follow one another.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Siglip2VisionModel

from pocketvlm_export.towers.attention import attend, in_heads
from pocketvlm_export.towers.base import Order
from pocketvlm_export.towers.clip import Clip


class Siglip2Vision(Clip):
    """The `Tower` of LFM2-VL (arXiv 2502.14786); its layers are CLIP's.

    ``merge`` of its configuration, which families set, is the edge of a token's square of patches.
    """

    model_type: ClassVar[str] = "siglip2_vision_model"
    has_cls: ClassVar[bool] = False
    model: ClassVar[type[PreTrainedModel]] = Siglip2VisionModel
    unread: ClassVar[tuple[str, ...]] = ("head.",)
    order: ClassVar[Order] = "squares"
    stretching: ClassVar[Mapping[str, Any] | None] = None

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        return ResizedPositions(tower.embeddings, tower.config.merge)

    def final(self, tower: Any) -> nn.Module:
        """The norm."""
        norm: nn.Module = tower.post_layernorm
        return norm

    def geometry(self, config: PretrainedConfig, rows: int, columns: int, blocks: int) -> int:
        """How many blocks of queries; layers need nothing else."""
        return blocks

    def run(
        self, layer: nn.Module, number: int, hidden: torch.Tensor, geometry: int
    ) -> torch.Tensor:
        """See `Tower.run`."""
        block = self.block(layer, geometry)
        normed = block.norm1(hidden)
        queries, keys, values = (
            in_heads(part(normed), block) for part in (block.query, block.key, block.value)
        )
        hidden = hidden + block.output(attend(block, queries, keys, values, geometry))
        return hidden + block.mlp(block.norm2(hidden))


class ResizedPositions(nn.Module):
    """pixel_values (B, 3, H, W) -> patches and their positions, square by square, (B, P, C).

    transformers multiplies patches that are already cut out, the colours of a pixel side by side:
    that is a convolution.
    """

    def __init__(self, embeddings: Any, merge: int) -> None:
        super().__init__()
        linear, edge = embeddings.patch_embedding, embeddings.patch_size
        kernel = linear.weight.detach().unflatten(1, (edge, edge, -1)).permute(0, 3, 1, 2)
        self.kernel = nn.Parameter(kernel.contiguous(), requires_grad=False)
        self.bias = linear.bias
        table = embeddings.position_embedding.weight.detach()
        side = math.isqrt(len(table))
        self.table = nn.Parameter(table.view(side, side, -1), requires_grad=False)
        self.merge = merge

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        edge = self.kernel.shape[-1]
        rows, columns = (pixel_values.shape[axis] // (edge * self.merge) for axis in (2, 3))
        patches = nn.functional.conv2d(pixel_values, self.kernel, self.bias, stride=edge)
        squares = patches.unflatten(3, (columns, self.merge)).unflatten(2, (rows, self.merge))
        return squares.permute(0, 2, 4, 3, 5, 1).flatten(1, 4) + self._positions(rows, columns)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """The table resized to so many tokens, (P, C)."""
        side = self.table.shape[0]
        down, across = (resizing(side, count * self.merge) for count in (rows, columns))
        tall = torch.matmul(down, self.table.flatten(1)).unflatten(1, (side, -1))
        resized = torch.matmul(across, tall)  # (rows of patches, columns of patches, C)
        squares = resized.unflatten(1, (columns, self.merge)).unflatten(0, (rows, self.merge))
        return squares.permute(0, 2, 1, 3, 4).flatten(0, 3)


def resizing(length: int, target: int) -> torch.Tensor:
    """Return the float32 matrix (target, length) that resizes a row of samples bilinearly, with
    antialiasing where it becomes shorter: what ``torch.nn.functional.interpolate`` computes.

    Each sample of the target lies somewhere among those of the source. Their weights fall the
    further they are, down to nothing at a distance of one sample of the coarser of both.
    """
    places = torch.arange(target, dtype=torch.float32) + 0.5
    scale = length / (places.amax(dim=0) + 0.5)
    distances = (torch.arange(length) + 0.5).unsqueeze(0) - (places * scale).unsqueeze(1)
    near = torch.clamp(1 - distances.abs() * torch.clamp(1 / scale, max=1.0), min=0)
    return near / near.sum(dim=1, keepdim=True)
