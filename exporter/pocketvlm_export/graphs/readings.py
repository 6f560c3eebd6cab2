"""Knows what can be read of one layer of a tower beside its output: whom its attention goes to, its
keys and values."""

import torch

from pocketvlm_export.families import VisionSpec
from pocketvlm_export.towers import Block
from pocketvlm_export.towers.attention import in_heads, received


def cls_attention(block: Block, hidden: torch.Tensor) -> torch.Tensor:
    """Return one row of a layer's attention: what [CLS] pays to each patch, (B, N + 1, C) -> (B,
    heads, N).

    softmax(q_cls k^T / sqrt(d)) with the [CLS] column dropped afterwards and nothing renormalised
    (FasterVLM, arXiv 2412.01818, section 3.2). It costs heads x (N + 1) x d products instead of a
    full map. N counts patches here. No tower with [CLS] rotates queries and keys.
    """
    normed = block.norm1(hidden)
    query = in_heads(block.query(normed[:, :1]), block)  # (B, heads, 1, d)
    keys = in_heads(block.key(normed), block)  # (B, heads, N + 1, d)
    logits = torch.matmul(query, keys.transpose(-1, -2)) * block.scaling
    return logits.softmax(dim=-1)[:, :, 0, 1:]


def patch_attention(block: Block, hidden: torch.Tensor, before: int) -> torch.Tensor:
    """Return the attention that patches pay to patches in a layer, (B, tokens, C) -> (B, heads, N,
    N).

    The softmax is over all tokens; the ``before`` tokens in front of the patches are left out of it
    afterwards.
    """
    normed = block.norm1(hidden)
    queries = in_heads(block.rotate(block.query(normed[:, before:]), None), block)
    keys = in_heads(block.rotate(block.key(normed), None), block)  # (B, heads, tokens, d)
    logits = torch.matmul(queries, keys.transpose(-1, -2)) * block.scaling
    return logits.softmax(dim=-1)[..., before:]


def mean_of_squares(attention: torch.Tensor, spec: VisionSpec) -> torch.Tensor:
    """Return what tokens pay to tokens of what patches pay to patches: (B, heads, P, P) -> (B,
    heads, N, N).

    A token's is the mean over its square of patches. Rows first: that leaves little to sum within
    them. Patches are in raster order, ``spec`` of one size.
    """
    if spec.merge == 1:
        return attention
    (rows, columns), edge = spec.grid, spec.merge
    paid = (
        attention.unflatten(2, (rows, edge, columns, edge)).mean(dim=(3, 5)).flatten(2, 3)
    )  # (B, heads, N, P)
    return paid.unflatten(3, (rows, edge, columns, edge)).mean(dim=(4, 6)).flatten(3)


def received_by_patches(
    block: Block, hidden: torch.Tensor, before: int, blocks: int
) -> torch.Tensor:
    """Return the attention that patches receive from patches in a layer, the mean over heads and
    patches, by ``blocks`` of queries: (B, tokens, C) -> (B, P)."""
    normed = block.norm1(hidden)
    queries = in_heads(block.rotate(block.query(normed[:, before:]), None), block)
    keys = in_heads(block.rotate(block.key(normed), None), block)
    return received(block, queries, keys, before, blocks)


def keys_of(block: Block, hidden: torch.Tensor, before: int) -> torch.Tensor:
    """Return the mean over heads of the patches' keys, turned by their places where the tower turns
    them: (B, tokens, C) -> (B, P, d)."""
    keys = in_heads(block.rotate(block.key(block.norm1(hidden)), None), block)
    return keys[:, :, before:].mean(dim=1)


def values_of(block: Block, hidden: torch.Tensor) -> torch.Tensor:
    """Return the values of all tokens by heads: (B, tokens, C) -> (B, heads, tokens, d)."""
    return in_heads(block.value(block.norm1(hidden)), block)
