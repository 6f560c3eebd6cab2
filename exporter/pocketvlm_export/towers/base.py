"""Knows what the exporter must learn about a vision tower, whichever it is: where its parts are."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedModel

from pocketvlm_export.towers.dimensions import Dimensions


@dataclass(frozen=True)
class Block:
    """The parts of one pre-norm transformer layer; ``scale1`` and ``scale2`` multiply what is added
    to the residual.

    ``query``, ``key`` and ``value`` map (..., C) to (..., heads x head_dim), ``output`` back;
    ``scaling`` multiplies their products before the softmax.
    """

    norm1: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    scale1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    scale2: nn.Module
    heads: int
    head_dim: int
    scaling: float


class Tower(Protocol):
    """One architecture of vision tower, a ViT.

    Attributes:
        model_type: of its configuration.
        has_cls: whether token 0 is [CLS].
        model: transformers' class.
        layers_prefix: before the number of a layer, in names of weights.
        depth_name: what configurations call the number of layers.
        unread: weights that a checkpoint may hold and an encoder never reads, by name within the
            tower.
    """

    model_type: str
    has_cls: bool
    model: type[PreTrainedModel]
    layers_prefix: str
    depth_name: str
    unread: tuple[str, ...]

    def dimensions(self, config: Any) -> Dimensions:
        """Return what a configuration states of its layers, widths and heads."""

    def embeddings(self, tower: Any) -> nn.Module:
        """Return what makes the first hidden state: pixel_values (B, 3, H, W) -> (B, tokens, C)."""

    def layers(self, tower: Any) -> nn.ModuleList:
        """Return the encoder's layers, each called as ``layer(hidden, None)``."""

    def final(self, tower: Any) -> nn.Module:
        """Return what each token of the deepest layer goes through before the projector."""

    def block(self, layer: Any) -> Block:
        """Return the parts of one of them."""
