"""Knows the dimensions of a vision tower, and how configurations state them."""

from dataclasses import dataclass
from typing import Any, Self

from pocketvlm_export.checkpoint.settings import Settings


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
        settings = Settings.of(config, "vision_config.")
        hidden = settings.integer("hidden_size")
        return cls(
            settings.integer("num_hidden_layers"),
            hidden,
            settings.integer("num_attention_heads"),
            mlp_width(settings, hidden),
        )


def mlp_width(settings: Settings, hidden: int) -> int:
    """Return the width of the hidden layer of a tower's MLPs, stated itself or as a ratio to the
    width of a token. Raises `CheckpointError` where neither is a number above 0."""
    if settings.stated("intermediate_size") is not None:
        return settings.integer("intermediate_size")
    width = int(hidden * settings.number("mlp_ratio"))
    if width < 1:
        raise settings.refusal("mlp_ratio", "a number above 0")
    return width
