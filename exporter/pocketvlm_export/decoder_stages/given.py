"""Ranking by scores that are an input of the graph: another model's, say a smaller one that has
answered first."""

import torch

from pocketvlm_export.decoder_stages.base import StageEvidence, StageRanking


class Given(StageRanking):
    """The graph's input ``visual_scores`` (B, S), as SGL needs it (arXiv 2412.03324)."""

    title = "scores that come with the picture"
    paper = "as in [arXiv 2412.03324](https://arxiv.org/abs/2412.03324)"
    keeps = "those with the highest scores of the ones that come with the picture"
    tag = "given-scores"

    def scores(self, evidence: StageEvidence) -> torch.Tensor:
        """See `StageRanking.scores`."""
        assert evidence.given is not None  # the graph of such a stage has the input
        return evidence.given
