"""FasterVLM: patches ranked by the attention that [CLS] pays them (Zhang et al. 2024, arXiv 2412.01818, section 3)."""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import Evidence, Pruner, Reads


class FasterVLM(Pruner):
    """Mean over heads of the [CLS] row of the feature layer's attention."""

    name: ClassVar[str] = "fastervlm"
    reads: ClassVar[frozenset[Reads]] = frozenset({"cls_row"})
    nested: ClassVar[bool] = True

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return the mean over heads of probabilities, not of logits: (batch, heads, patches) -> (batch, patches)."""
        assert evidence.cls_row is not None
        return evidence.cls_row.mean(dim=1)
