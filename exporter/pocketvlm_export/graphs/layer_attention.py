"""What tokens attend to in a layer of a causal language model that has run already, for those who
rank by it."""

import torch
from torch import nn
from transformers import DynamicCache

from pocketvlm_export import upstream
from pocketvlm_export.graphs.scores import rotate


class LayerAttention:
    """`pocketvlm_export.decoder_stages.base.Attention` of one layer: softmax(q k^T / sqrt(d)) of
    few rows, computed again, so that the layer's own attention can be fused."""

    def __init__(
        self,
        layer: nn.Module,
        rotary: nn.Module,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache,
    ) -> None:
        """``hidden`` (B, n, hidden) and ``positions`` (B, n) are what the layer has read, ``cache``
        has its keys."""
        self._layer = layer
        self._rotary = rotary
        self._hidden = hidden
        self._positions = positions
        keys, _ = upstream.cached_layers(cache)[layer.self_attn.layer_idx]
        self._keys = keys  # (B, kv_heads, past + n, d)
        self._past = keys.shape[2] - hidden.shape[1]

    def of_last(self) -> torch.Tensor:
        """See `Attention.of_last`: nothing lies behind the last token, so there is no mask."""
        products = self._products(self._hidden[:, -1:], self._positions[:, -1:]).squeeze(-2)
        return products.softmax(dim=-1).mean(dim=(1, 2))[:, self._past :]

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """See `Attention.of`."""
        hidden = torch.gather(
            self._hidden, 1, rows.unsqueeze(-1).expand(-1, -1, self._hidden.shape[-1])
        )
        products = self._products(hidden, torch.gather(self._positions, 1, rows))
        keys = torch.arange(self._keys.shape[2], device=rows.device)
        later = keys > rows.unsqueeze(-1) + self._past  # (B, r, past + n)
        products = products.masked_fill(later[:, None, None], torch.finfo(products.dtype).min)
        return products.softmax(dim=-1).mean(dim=(1, 2))[:, :, self._past :]

    def _products(self, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Scaled products of rows (B, r, hidden) with all keys, (B, kv_heads, groups, r, past +
        n)."""
        attention = self._layer.self_attn
        query = attention.q_proj(self._layer.input_layernorm(hidden)).unflatten(
            -1, (-1, attention.head_dim)
        )
        query = getattr(attention, "q_norm", nn.Identity())(query).transpose(1, 2)
        cos, sin = self._rotary(hidden, positions)
        query = rotate(query, cos.unsqueeze(1), sin.unsqueeze(1))  # (B, heads, r, d)
        groups = attention.num_key_value_groups
        query = query.unflatten(1, (-1, groups)).flatten(2, 3)  # (B, kv_heads, groups r, d)
        products = torch.matmul(query, self._keys.transpose(-1, -2)) * attention.scaling
        return products.unflatten(2, (groups, -1))
