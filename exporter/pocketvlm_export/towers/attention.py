"""Knows how attention is computed where its whole map would be too large to hold: by blocks of
queries."""

from collections.abc import Iterator

import torch

from pocketvlm_export.towers.base import Block

MAP_BYTES = 64 << 20  # what the softmaxed products of one block of queries may take


def blocks_of(heads: int, queries: int, keys: int) -> int:
    """Return into how many blocks queries are split so that a float32 map (heads, block, keys)
    takes at most `MAP_BYTES`."""
    return -(-4 * heads * queries * keys // MAP_BYTES)


def in_heads(x: torch.Tensor, block: Block) -> torch.Tensor:
    """Split queries, keys or values by heads: (B, tokens, heads * d) -> (B, heads, tokens, d)."""
    return x.unflatten(-1, (block.heads, block.head_dim)).transpose(1, 2)


def attend(
    block: Block,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    blocks: int = 1,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax(q k^T * scaling + bias) v with its heads joined, (B, queries, heads * d), of
    heads (B, heads, tokens, d) each.

    Spelt out as in eager attention, so that it is traced as that is and can be fused where it is in
    one block. ``bias`` broadcasts against (B, heads, queries, keys).
    """
    if blocks == 1:
        return _attend(block, queries, keys, values, bias)
    parts = [_attend(block, part, keys, values, bias) for part, _ in split(queries, blocks)]
    return torch.index_select(torch.cat(parts, dim=1), 1, torch.arange(queries.shape[2]))


def received(
    block: Block, queries: torch.Tensor, keys: torch.Tensor, before: int, blocks: int
) -> torch.Tensor:
    """Return the attention that each patch receives, the mean over heads and patches: their
    ``queries`` (B, heads, P, d) and the ``keys`` of all tokens, (B, heads, tokens, d) -> (B, P).

    The softmax is over all tokens; the ``before`` tokens in front of the patches are left out of it
    afterwards. One block's map is summed up before the next is made.
    """
    columns = keys.transpose(-1, -2)
    total: torch.Tensor | None = None
    for part, counts in split(queries, blocks):
        maps = (torch.matmul(part, columns) * block.scaling).softmax(dim=-1)
        paid = torch.matmul(counts, maps).sum(dim=1).squeeze(1)  # (B, tokens)
        total = paid if total is None else total + paid
    assert total is not None
    return total[:, before:] / (block.heads * queries.shape[2])


def split(queries: torch.Tensor, blocks: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (B, heads, tokens, d) in blocks of equal length, each with a row (1, length) of ones,
    and zeros where the last block is filled up.

    Blocks are fetched by index, not cut out: the tracer cannot know that a slice of a length that
    is known only at run time lies within the tensor.
    """
    tokens = queries.shape[2]
    length = (tokens + blocks - 1) // blocks
    for number in range(blocks):
        places = torch.arange(length) + number * length
        exists = places < tokens
        yield (
            torch.index_select(queries, 2, torch.where(exists, places, 0)),
            exists.to(queries.dtype).unsqueeze(0),
        )


def _attend(
    block: Block,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    logits = torch.matmul(queries, keys.transpose(-1, -2)) * block.scaling
    maps = (logits if bias is None else logits + bias).softmax(dim=-1)
    return torch.matmul(maps, values).transpose(1, 2).flatten(2)
