"""By received attention: the tokens that the others attend to most are kept; [CLS] is not
needed."""

from typing import ClassVar

import torch

from pocketvlm_export.tower_stages.base import Criterion, RowReads, Seen


class Received(Criterion):
    """s_j = sum over heads h and tokens i of A[h, i, j] / (heads n), without [CLS]."""

    name: ClassVar[str] = "received"
    keeps: ClassVar[str] = "that the other patches attend to most"
    reads: ClassVar[frozenset[RowReads]] = frozenset({"received"})

    def score(self, seen: Seen) -> torch.Tensor:
        """Return it: (B, n)."""
        assert seen.received is not None
        return seen.received
