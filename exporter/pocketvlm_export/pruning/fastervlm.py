"""FasterVLM: patches ranked by the attention that [CLS] pays them (Zhang et al. 2024, arXiv
2412.01818, section 3)."""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import Evidence, Pruner, Reads


class FasterVLM(Pruner):
    """Mean over heads of the [CLS] row of the feature layer's attention."""

    name: ClassVar[str] = "fastervlm"
    title: ClassVar[str] = "FasterVLM"
    paper: ClassVar[str] = "[arXiv 2412.01818](https://arxiv.org/abs/2412.01818)"
    keeps: ClassVar[str] = "that its [CLS] token attends to most"
    reads: frozenset[Reads] = frozenset({"cls_row"})

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return the mean over heads of probabilities, not of logits: (B, heads, N) -> (B, N)."""
        return evidence.cls_rows[-1].mean(dim=1)
