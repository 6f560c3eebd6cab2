"""The vision tower of Qwen3-VL (``qwen3_vl_vision``): pictures of any size, a learnt table of
positions stretched over each of them, and further features of a few layers (DeepStack).

As in the towers before it the four patches of a token follow one another, and queries and keys are
rotated by row and column. Every layer attends to the whole picture.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from pocketvlm_export import upstream
from pocketvlm_export.checkpoint.settings import Settings
from pocketvlm_export.towers.base import Extra
from pocketvlm_export.towers.qwen import Patches, Qwen2VLVision
from pocketvlm_export.towers.windows import places_of

EXTRA = "deepstack_{}"  # the name of a further output, by its number


class PlacedPatches(nn.Module):
    """pixel_values (B, 3, H, W) -> the embeddings of patches where they are in the picture, square
    by square, (B, P, C)."""

    def __init__(self, patches: Patches, table: torch.Tensor) -> None:
        """``table`` are the positions of a square grid, (side^2, C)."""
        super().__init__()
        self.patches = patches
        self.table = nn.Parameter(table.detach(), requires_grad=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        edge, merge = self.patches.kernel.shape[-1], self.patches.merge
        rows, columns = (pixel_values.shape[axis] // (edge * merge) for axis in (2, 3))
        return self.patches(pixel_values) + stretched(self.table, rows, columns, merge)


class Qwen3VLVision(Qwen2VLVision):
    """The `Tower` of Qwen3-VL (arXiv 2511.21631)."""

    model_type: ClassVar[str] = "qwen3_vl_vision"
    model: ClassVar[type[PreTrainedModel]] = upstream.model_class("qwen3_vl", "Qwen3VLVisionModel")

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        patches = Patches(tower.patch_embed.proj, tower.config.spatial_merge_size)
        return PlacedPatches(patches, tower.pos_embed.weight)

    def final(self, tower: Any) -> nn.Module:
        """The norm that transformers' merger begins with; the rest of it is the projector."""
        norm: nn.Module = tower.merger.norm
        return norm

    def extras(self, tower: Any) -> Mapping[str, Extra]:
        """The outputs of a few layers, each through a merger of its own whose norm is over all
        patches of a token."""
        return {
            EXTRA.format(number): Extra(
                layer + 1, nn.Sequential(merger.norm, *merger_layers(merger).values())
            )
            for number, (layer, merger) in enumerate(
                zip(tower.deepstack_visual_indexes, tower.deepstack_merger_list, strict=True)
            )
        }

    def width(self, config: Any) -> int:
        """See `Qwen2VLVision.width`."""
        return Settings.of(config, "vision_config.").integer("hidden_size")


def merger_layers(merger: Any) -> OrderedDict[str, nn.Module]:
    """Return what of one of its mergers comes behind the norm, by name and in order."""
    return OrderedDict(
        (name, getattr(merger, name)) for name in ("linear_fc1", "act_fn", "linear_fc2")
    )


def stretched(table: torch.Tensor, rows: int, columns: int, merge: int) -> torch.Tensor:
    """Return the positions of a picture of so many tokens, square by square: (P, C).

    The corners of the ``table`` lie on those of the picture; between its points it is interpolated
    linearly in both directions, each patch from the four around it.
    """
    side = int(table.shape[0] ** 0.5)
    row, column = places_of(rows, columns, merge)
    total: torch.Tensor | None = None
    for place_down, weight_down in _points(row, rows * merge, side):
        for place_across, weight_across in _points(column, columns * merge, side):
            points = table[place_down * side + place_across]
            part = points * (weight_down * weight_across).unsqueeze(-1)
            total = part if total is None else total + part
    assert total is not None
    return total


def _points(
    places: torch.Tensor, patches: int, side: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Return the two points of an axis of the table around each patch, int64 (P,), and how much
    each counts, float32 (P,). ``patches`` are along that axis, at least two."""
    at = places.to(torch.float32) * (side - 1) / (patches - 1)
    floor = at.floor()
    before = floor.to(torch.int64).clamp(0, side - 1)
    part = at - floor
    return (before, 1 - part), ((before + 1).clamp(max=side - 1), part)
