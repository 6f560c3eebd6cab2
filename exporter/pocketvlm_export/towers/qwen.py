"""The vision towers of Qwen2-VL and Qwen2.5-VL (``qwen2_vl_vision``, ``qwen2_5_vl_vision``):
pictures of any size, rotated queries and keys, and in the second attention within windows.

The four patches of a token follow one another. Where in the picture a patch is follows from its
number by plain arithmetic, which is traced: one graph serves pictures of every size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VisionTransformerPretrainedModel,
)

from pocketvlm_export import upstream
from pocketvlm_export.checkpoint.settings import Settings
from pocketvlm_export.towers.attention import attend, in_heads
from pocketvlm_export.towers.base import Block, Order, Tower
from pocketvlm_export.towers.dimensions import Dimensions, mlp_width
from pocketvlm_export.towers.windows import Windows, attend_within, places_of, windows_of


@dataclass(frozen=True)
class Geometry:
    """What the layers need to know of a picture's shape.

    Attributes:
        cos, sin: of the angles that queries and keys are turned by, (P, head_dim / 2): the first
            half is for the row of a patch, the second for its column.
        windows: None for a tower without.
        blocks: blocks of queries of a layer that attends to the whole picture.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    windows: Windows | None
    blocks: int


class Layer(nn.Module):
    """A layer's parts with queries, keys and values apart; the weights are still transformers'.

    ``windowed``: it attends within windows.
    """

    def __init__(self, layer: Any, windowed: bool) -> None:
        super().__init__()
        attention = layer.attn
        self.norm1, self.norm2, self.mlp = layer.norm1, layer.norm2, layer.mlp
        self.query, self.key, self.value = thirds(attention.qkv)
        self.output = attention.proj
        self.heads, self.head_dim = attention.num_heads, attention.head_dim
        self.scaling = attention.scaling
        self.windowed = windowed


class Patches(nn.Module):
    """pixel_values (B, 3, H, W) -> the embeddings of patches, square by square, (B, P, C).

    transformers gives a convolution over two frames the picture twice. That is a convolution of one
    picture by the sum of both kernels.
    """

    bias: nn.Parameter | None

    def __init__(self, convolution: nn.Conv3d, merge: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(convolution.weight.detach().sum(dim=2), requires_grad=False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.merge = merge

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        edge = self.kernel.shape[-1]
        rows, columns = (pixel_values.shape[axis] // (edge * self.merge) for axis in (2, 3))
        patches = nn.functional.conv2d(pixel_values, self.kernel, self.bias, stride=edge)
        squares = patches.unflatten(3, (columns, self.merge)).unflatten(2, (rows, self.merge))
        return squares.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


class Qwen2VLVision(Tower):
    """The `Tower` of Qwen2-VL (arXiv 2409.12191): every layer attends to the whole picture."""

    model_type: ClassVar[str] = "qwen2_vl_vision"
    has_cls: ClassVar[bool] = False
    model: ClassVar[type[PreTrainedModel]] = upstream.model_class(
        "qwen2_vl", "Qwen2VisionTransformerPretrainedModel"
    )
    layers_prefix: ClassVar[str] = "blocks."
    order: ClassVar[Order] = "squares"
    undivided: ClassVar[str] = "rotate queries and keys by the places of all patches"

    def dimensions(self, config: Any) -> Dimensions:
        """See `Tower.dimensions`; the first of both states the MLP's width as a ratio."""
        settings, hidden = Settings.of(config, "vision_config."), self.width(config)
        return Dimensions(
            settings.integer("num_hidden_layers"),
            hidden,
            settings.integer("num_attention_heads"),
            mlp_width(settings, hidden),
        )

    def embeddings(self, tower: Any, size: tuple[int, int] | None) -> nn.Module:
        """See `Tower.embeddings`."""
        return Patches(tower.patch_embed.proj, tower.config.spatial_merge_size)

    def layers(self, tower: Any) -> nn.ModuleList:
        """See `Tower.layers`."""
        whole = self.whole_picture(tower.config)
        return nn.ModuleList(
            Layer(layer, windowed=number not in whole) for number, layer in enumerate(tower.blocks)
        )

    def final(self, tower: Any) -> nn.Module:
        """The norm that transformers' merger begins with; the rest of it is the projector."""
        norm: nn.Module = tower.merger.ln_q
        return norm

    def whole_picture(self, config: Any) -> list[int]:
        """Return which layers, counted from 0, attend to the whole picture."""
        return list(range(config.num_hidden_layers))

    def width(self, config: Any) -> int:
        """Return how wide hidden states are; ``hidden_size`` is the decoder's here."""
        return Settings.of(config, "vision_config.").integer("embed_dim")

    def windows(self, config: Any, rows: int, columns: int) -> Windows | None:
        """Return the windows of a picture of so many tokens."""
        return None

    def geometry(self, config: PretrainedConfig, rows: int, columns: int, blocks: int) -> Geometry:
        """See `Tower.geometry`. Angles are computed in float32, as transformers does."""
        half = self.width(config) // config.num_attention_heads // 2
        powers = torch.arange(0, half, 2, dtype=torch.float32) / half
        frequencies = 1.0 / config.rope_parameters["rope_theta"] ** powers  # (head_dim / 4,)
        row, column = places_of(rows, columns, config.spatial_merge_size)
        places = torch.stack([row, column], dim=1).to(torch.float32)
        angles = (places.unsqueeze(-1) * frequencies).flatten(1)  # (P, head_dim / 2)
        return Geometry(angles.cos(), angles.sin(), self.windows(config, rows, columns), blocks)

    def run(
        self, layer: nn.Module, number: int, hidden: torch.Tensor, geometry: Geometry
    ) -> torch.Tensor:
        """See `Tower.run`."""
        assert isinstance(layer, Layer)
        block = self.block(layer, geometry)
        normed = block.norm1(hidden)
        queries, keys = (
            block.rotate(project(normed), None) for project in (block.query, block.key)
        )
        values = block.value(normed)
        if layer.windowed and geometry.windows is not None:
            context = attend_within(geometry.windows, block, queries, keys, values)
        else:
            queries, keys, values = (in_heads(part, block) for part in (queries, keys, values))
            context = attend(block, queries, keys, values, geometry.blocks)
        hidden = hidden + block.output(context)
        return hidden + block.mlp(block.norm2(hidden))

    def block(self, layer: Any, geometry: Geometry) -> Block:
        """See `Tower.block`."""
        return Block(
            norm1=layer.norm1,
            query=layer.query,
            key=layer.key,
            value=layer.value,
            output=layer.output,
            scale1=nn.Identity(),
            norm2=layer.norm2,
            mlp=layer.mlp,
            scale2=nn.Identity(),
            heads=layer.heads,
            head_dim=layer.head_dim,
            scaling=layer.scaling,
            rotate=rotation(layer.heads, geometry),
        )


class Qwen25VLVision(Qwen2VLVision):
    """The `Tower` of Qwen2.5-VL (arXiv 2502.13923): a few layers attend to the whole picture, the
    others within windows of 8x8 patches."""

    model_type: ClassVar[str] = "qwen2_5_vl_vision"
    undivided: ClassVar[str] = "attend within windows of neighbours"
    model: ClassVar[type[PreTrainedModel]] = Qwen2_5_VisionTransformerPretrainedModel

    def whole_picture(self, config: Any) -> list[int]:
        """See `Qwen2VLVision.whole_picture`."""
        return Settings.of(config, "vision_config.").integers("fullatt_block_indexes")

    def dimensions(self, config: Any) -> Dimensions:
        """See `Tower.dimensions`."""
        settings = Settings.of(config, "vision_config.")
        layers, merge, patch = (
            settings.integer(key)
            for key in ("num_hidden_layers", "spatial_merge_size", "patch_size")
        )
        whole = {number for number in self.whole_picture(config) if number < layers}
        return replace(
            super().dimensions(config),
            mlp_matrices=3,
            window=(settings.integer("window_size") // merge // patch * merge) ** 2,
            windowed_layers=layers - len(whole),
        )

    def width(self, config: Any) -> int:
        """See `Qwen2VLVision.width`."""
        return Settings.of(config, "vision_config.").integer("hidden_size")

    def windows(self, config: Any, rows: int, columns: int) -> Windows:
        """See `Qwen2VLVision.windows`."""
        merge = config.spatial_merge_size
        return windows_of(rows, columns, config.window_size // merge // config.patch_size, merge)


def thirds(fused: nn.Linear) -> list[nn.Linear]:
    """Return a fused projection of queries, keys and values as three, whose weights are slices of
    its own: they take no memory."""
    parts = []
    size = fused.out_features // 3
    for number in range(3):
        rows = slice(number * size, (number + 1) * size)
        with torch.device("meta"):
            part = nn.Linear(fused.in_features, size)
        part.weight = nn.Parameter(fused.weight.detach()[rows], requires_grad=False)
        part.bias = nn.Parameter(fused.bias.detach()[rows], requires_grad=False)
        parts.append(part)
    return parts


def rotation(
    heads: int, geometry: Geometry
) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """Return `Block.rotate`: the first half of each head's values and the second are the two
    coordinates of points, which are turned by the angles of their patch."""

    def rotate(x: torch.Tensor, patches: torch.Tensor | None) -> torch.Tensor:
        cos, sin = (
            angles if patches is None else angles[patches]
            for angles in (geometry.cos, geometry.sin)
        )
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # (..., P, 1, head_dim / 2)
        first, second = x.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return turned.flatten(-2)

    return rotate
