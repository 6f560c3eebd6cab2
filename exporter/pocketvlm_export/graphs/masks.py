"""Knows what is added to attention's products so that a token sees what it may: computed in the
traced graph, from its inputs alone."""

from collections.abc import Mapping

import torch
from transformers import PretrainedConfig

from pocketvlm.artifact.specs import CAUSAL
from pocketvlm_export.families.spec import DecoderSpec

_FULL, _SLIDING = "full_attention", "sliding_attention"


def is_full(spec: DecoderSpec) -> bool:
    """Whether every layer is attention in which a token sees all before it, but padding: no mask
    has anything else to say."""
    config = spec.config
    kinds = set(getattr(config, "layer_types", None) or ())
    # Where kinds are listed they decide; a window may then be stated that no layer has.
    windowed = not kinds and getattr(config, "sliding_window", None) is not None
    chunked = getattr(config, "attention_chunk_size", None) is not None
    everywhere = kinds <= {_FULL} and not (windowed or chunked or spec.conv_layers)
    return spec.attention == CAUSAL and everywhere


def two_way_masks(
    config: PretrainedConfig,
    attention_mask: torch.Tensor,
    picture_ids: torch.Tensor,
    dtype: torch.dtype,
    *,
    beyond_window: bool = False,
) -> torch.Tensor | Mapping[str, torch.Tensor]:
    """Return the biases of a decoder whose tokens with the same number attend to each other in both
    directions.

    A token sees what comes before it, itself, and of this run the tokens with its own number. Of
    them a layer with a sliding window sees what lies behind it, and less than
    ``config.sliding_window`` places before it.

    Args:
        config: the text model's, with its ``layer_types`` where layers differ.
        attention_mask: int64 (B, past + S), 0 where there is padding.
        picture_ids: int64 (B, S), 0 for a token that sees none behind it.
        dtype: of the biases.
        beyond_window: tokens with its own number are seen wherever they are. transformers' models
            (5.23) do so for a bidirectional prompt, and not for bidirectional pictures.

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
    both_ways, real = (own == numbers) & (own > 0), attention_mask[:, None] > 0
    visible = {_FULL: before | both_ways}
    if _SLIDING in (getattr(config, "layer_types", None) or ()):
        near = keys > places - config.sliding_window
        inside = (before & near) | both_ways if beyond_window else visible[_FULL] & near
        visible[_SLIDING] = inside
    named = {kind: _bias(each & real).to(dtype) for kind, each in visible.items()}
    return named if getattr(config, "layer_types", None) else named[_FULL]


def _bias(seen: torch.Tensor) -> torch.Tensor:
    """0 where a key is seen, (B, S, keys) -> (B, 1, S, keys)."""
    hidden = torch.full((), torch.finfo(torch.float32).min)
    return torch.where(seen, torch.zeros(()), hidden)[:, None]
