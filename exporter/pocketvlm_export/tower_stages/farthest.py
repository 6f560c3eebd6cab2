"""Farthest first: the tokens that differ most from each other are kept, whatever [CLS] thinks of
them.

What is dropped early should be what others say too, not what looks unimportant by then. Each pick
depends on all before it, so rounding changes many of them. On the demo an int8 tower keeps three
quarters of what a float32 one keeps, which the parity gate refuses.
"""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.cosines import cosines
from pocketvlm_export.pruning.greedy import farthest_first
from pocketvlm_export.tower_stages.base import Criterion, RowReads, Seen


class Farthest(Criterion):
    """Greedy max-min over 1 - cosine of hidden states, as DivPrune (arXiv 2503.02175) over final
    features. First the token whose nearest neighbour is farthest away, then the one farthest from
    all that are kept."""

    name: ClassVar[str] = "farthest"
    keeps: ClassVar[str] = "that differ most from each other"
    reads: ClassVar[frozenset[RowReads]] = frozenset({"hidden"})

    def choose(self, seen: Seen, keep: int) -> torch.Tensor:
        """See `Criterion.choose`."""
        assert seen.hidden is not None
        picks = farthest_first(1 - cosines(seen.hidden), keep)
        indices, _ = torch.topk(picks, keep, dim=1, largest=False, sorted=True)
        return indices
