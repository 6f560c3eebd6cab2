"""No pruning: every patch is kept, for comparison and for clients that want all tokens."""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import Evidence, Pruner, Reads


class NoPruning(Pruner):
    """Keeps all tokens; it ranks nothing, so smaller budgets cannot be served from its graph."""

    name: ClassVar[str] = "none"
    reads: ClassVar[frozenset[Reads]] = frozenset()
    nested: ClassVar[bool] = False
    prunes: ClassVar[bool] = False

    def default_budget(self, tokens: int) -> int:
        """Return ``tokens``."""
        return tokens

    def score(self, evidence: Evidence) -> torch.Tensor:
        """There is nothing to rank by."""
        raise NotImplementedError("the unpruned graph takes no selection")
