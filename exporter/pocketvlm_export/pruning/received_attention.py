"""Received attention: patches ranked by what the other patches pay them, for towers with or without
a [CLS] token.

It is what VisionZip (arXiv 2412.04467) and others put in the place of the [CLS] row where an
encoder has none. It ranks patches otherwise than that row does, and is another method.
"""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import Evidence, Pruner, Reads


class ReceivedAttention(Pruner):
    """s_j = sum over heads h and patches i of A[h, i, j] / (heads N), in the feature layer."""

    name: ClassVar[str] = "received-attention"
    title: ClassVar[str] = "Received attention"
    paper: ClassVar[str] = (
        "as [VisionZip](https://arxiv.org/abs/2412.04467) does without a [CLS] token"
    )
    keeps: ClassVar[str] = "that the other patches attend to most"
    reads: frozenset[Reads] = frozenset({"received"})

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return it: (B, N)."""
        assert evidence.received is not None
        return evidence.received
