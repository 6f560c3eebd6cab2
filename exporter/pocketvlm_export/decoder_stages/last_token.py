"""Ranking by what the prompt's last token attends to: FastV, and with several stages
PyramidDrop."""

import torch

from pocketvlm_export.decoder_stages.base import StageEvidence, StageRanking


class LastToken(StageRanking):
    """A mean over heads of the last token's attention in the layer before (FastV, arXiv 2403.06764,
    section 4).

    PyramidDrop (arXiv 2410.17247) is three of these, at a quarter, a half and three quarters of the
    layers, each keeping half of what is left.
    """

    title = "FastV"
    paper = "[arXiv 2403.06764](https://arxiv.org/abs/2403.06764)"
    keeps = "those that the question attends to most"
    tag = "fastv"

    def scores(self, evidence: StageEvidence) -> torch.Tensor:
        """See `StageRanking.scores`."""
        return evidence.attention.of_last()
