"""No pruning: every patch is kept, for comparison and for clients that need all tokens."""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import Evidence, Pruner, Selection


class NoPruning(Pruner):
    """Keeps all tokens; it ranks nothing, so smaller budgets cannot be served from its graph."""

    name: ClassVar[str] = "none"
    title: ClassVar[str] = "No pruning"
    keeps: ClassVar[str] = "that there are"
    nested: ClassVar[bool] = False
    prunes: ClassVar[bool] = False

    def default_budget(self, tokens: int) -> int:
        """Return ``tokens``."""
        return tokens

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Every patch, at score 0: nothing was ranked."""
        indices = torch.arange(evidence.tokens).expand(evidence.batch, -1)
        return Selection(indices, torch.zeros_like(indices, dtype=torch.float32))
