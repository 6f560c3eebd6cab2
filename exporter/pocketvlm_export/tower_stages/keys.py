"""By keys: tokens whose keys are most like all others' are dropped, some in a round (SAINT, arXiv
2503.11549).

It lost least here on the demo's training questions, with half of the patches dropped before the
third of five layers. An int8 tower still keeps what a float32 one keeps.
"""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import take_exactly
from pocketvlm_export.tower_stages.base import Criterion, RowReads, Seen

PART = 16  # of the tokens that are left, one in so many is dropped in a round


class Keys(Criterion):
    """Rounds over S = K K^T, with K the means over heads of keys, L2-normalised. Each drops the
    floor(n / 16) tokens with the largest sums over their rows, until only those to keep are left.

    A sum over a row of S is the key's product with the sum of all keys: S itself is never made. The
    authors do this in several layers, about 30 % dropped in all.
    """

    name: ClassVar[str] = "keys"
    keeps: ClassVar[str] = "whose keys are least like the others'"
    paper: ClassVar[str] = "[SAINT](https://arxiv.org/abs/2503.11549)"
    reads: ClassVar[frozenset[RowReads]] = frozenset({"keys"})

    def choose(self, seen: Seen, keep: int) -> torch.Tensor:
        """See `Criterion.choose`."""
        assert seen.keys is not None
        keys = seen.keys / seen.keys.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # (B, n, d)
        left = torch.arange(seen.tokens).expand(seen.batch, -1)
        for count in rounds(seen.tokens, keep):
            alike = torch.matmul(keys, keys.sum(dim=1).unsqueeze(2)).squeeze(2)  # (B, n)
            kept = take_exactly(-alike, count).indices
            left = torch.gather(left, 1, kept)
            keys = torch.gather(keys, 1, kept.unsqueeze(2).expand(-1, -1, keys.shape[2]))
        return left


def rounds(tokens: int, keep: int) -> list[int]:
    """Return how many tokens are left after each round; one is dropped where a part would be
    none."""
    left: list[int] = []
    while tokens > keep:
        tokens = max(keep, tokens - max(1, tokens // PART))
        left.append(tokens)
    return left
