"""By [CLS]: the tokens that [CLS] attends to most are kept, FasterVLM's order (arXiv 2412.01818) in
an earlier layer."""

from typing import ClassVar

import torch

from pocketvlm_export.tower_stages.base import Criterion, RowReads, Seen


class Cls(Criterion):
    """The mean over heads of the [CLS] row."""

    name: ClassVar[str] = "cls"
    keeps: ClassVar[str] = "that its [CLS] token attends to most"
    reads: ClassVar[frozenset[RowReads]] = frozenset({"cls_row"})
    needs_cls: ClassVar[bool] = True

    def score(self, seen: Seen) -> torch.Tensor:
        """Return the mean: (B, heads, n) -> (B, n)."""
        assert seen.cls_row is not None
        return seen.cls_row.mean(dim=1)
