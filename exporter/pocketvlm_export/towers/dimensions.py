"""Knows the dimensions of a vision tower, and how configurations state them."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Dimensions:
    """Of a tower's matrices: transformer layers, the width of a token, heads, and the width of the
    hidden layer of each MLP.

    ``mlp_matrices`` is 2, or 3 where the MLP is gated. ``windowed_layers`` of the layers attend
    within windows of ``window`` patches; 0 in a plain ViT, whose layers attend to all tokens.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    mlp_matrices: int = 2
    window: int = 0
    windowed_layers: int = 0

    @classmethod
    def of(cls, config: Any) -> Self:
        """Read a configuration that names them as most do; DINOv2's states the MLP as a ratio."""
        stated = getattr(config, "intermediate_size", None)
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            int(stated or config.hidden_size * config.mlp_ratio),
        )
