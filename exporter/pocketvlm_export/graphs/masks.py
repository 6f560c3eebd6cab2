"""Knows what is added to attention's products so that a token sees what it may: computed in the
traced graph, from its inputs alone."""

from collections.abc import Mapping

import torch
from transformers import PretrainedConfig

_SLIDING = "sliding_attention"


def two_way_masks(
    config: PretrainedConfig,
    attention_mask: torch.Tensor,
    picture_ids: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor | Mapping[str, torch.Tensor]:
    """Return the biases of a decoder whose tokens with the same number see each other both ways.

    A token sees what comes before it, itself, and of this run the tokens with its own number. Of
    what comes before it a layer with a sliding window sees those less than
    ``config.sliding_window`` places away; the tokens with its own number it sees wherever they are,
    as transformers' models do (5.23).

    Args:
        config: the text model's, with its ``layer_types`` where layers differ.
        attention_mask: int64 (B, past + S), 0 where there is padding.
        picture_ids: int64 (B, S), 0 for a token that sees none behind it.
        dtype: of the biases.

    Returns:
        (B, 1, S, past + S), or one such for each kind of layer, as transformers' models read them.
    """
    total, tokens = attention_mask.shape[1], picture_ids.shape[1]
    keys = torch.arange(total, device=picture_ids.device)
    places = keys[total - tokens :, None]  # of the queries
    before = (keys <= places)[None]  # (1, S, past + S)
    past = torch.zeros_like(attention_mask[:, tokens:])
    numbers = torch.cat([past, picture_ids], dim=1)[:, None]
    own = picture_ids[:, :, None]
    both_ways = (own == numbers) & (own > 0)
    real = attention_mask[:, None] > 0
    biases = {}
    for kind in set(getattr(config, "layer_types", None) or ["full_attention"]):
        near = before & (keys > places - config.sliding_window) if kind == _SLIDING else before
        biases[kind] = _bias((near | both_ways) & real)
    named = {kind: bias.to(dtype) for kind, bias in biases.items()}
    return named if getattr(config, "layer_types", None) else named["full_attention"]


def _bias(seen: torch.Tensor) -> torch.Tensor:
    """0 where a key is seen, (B, S, keys) -> (B, 1, S, keys)."""
    hidden = torch.full((), torch.finfo(torch.float32).min)
    return torch.where(seen, torch.zeros(()), hidden)[:, None]
