"""VisionZip: patches ranked by attention, and what is left of them merged by their keys (Yang et
al., CVPR 2025, arXiv 2412.04467)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import (
    Evidence,
    Pruner,
    Reads,
    Selection,
    rows_of,
    take_best,
    take_exactly,
)
from pocketvlm_export.pruning.merging import among, going, likeness
from pocketvlm_export.pruning.options import Choice, Option
from pocketvlm_export.pruning.weighted import PAID, attention_paid, settle_weight

_PAPERS_SHARE = 10 / 64  # contextual tokens of all; 20 of 128 and 30 of 192 are nearly that


class VisionZip(Pruner):
    """Dominant patches by the attention paid to them, contextual ones merged from the rest.

    Of a budget k, the ``contextual`` share is c and the k - c patches that [CLS] attends to most
    are dominant: they are kept as they are. Every s-th of the M patches that are left, in raster
    order, is a target, c in all, s = M / c rounded down. Each of the others goes to the target
    whose key in the score layer, the mean over heads, has the largest cosine with its own. A
    target's feature becomes its own plus the mean of those that went to it: a sum, no average.

    The authors differ in three ways. They send the [CLS] token's feature to the decoder too, as one
    of the dominant ones; here one patch more is dominant. They append the contextual tokens; here
    each has the place of its target, as kept tokens are in raster order. Without a [CLS] token they
    rank by received attention, ``weight`` received here. It is possible with one too, and the
    default if a tower's [CLS] ranks patches badly.
    """

    name: ClassVar[str] = "visionzip"
    title: ClassVar[str] = "VisionZip"
    paper: ClassVar[str] = "[arXiv 2412.04467](https://arxiv.org/abs/2412.04467)"
    keeps: ClassVar[str] = "that attention ranks highest, and means of the others by their keys"
    reads: frozenset[Reads] = frozenset({"keys", "features"})
    nested: ClassVar[bool] = False
    merges: ClassVar[bool] = True
    accepts: ClassVar[Mapping[str, Option | Choice]] = {
        "contextual": Option(float, 0, 0.9, _PAPERS_SHARE),
        "weight": PAID,
    }

    def settle(self, vision: VisionSpec) -> None:
        """See `settle_weight`."""
        self.reads = type(self).reads | settle_weight(self, vision)

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return the attention paid to each patch, (B, N): by [CLS], or by all patches."""
        return attention_paid(self, evidence)

    def contextual(self, budget: int) -> int:
        """How many of ``budget`` tokens are merged: one at least, where there is room and the share
        is not 0."""
        share = self.number("contextual")
        return min(budget - 1, max(1, round(share * budget))) if share else 0

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return dominant and contextual patches together in raster order, all N where there are
        fewer than ``budget``, each with the attention paid to it as its score."""
        assert evidence.features is not None
        assert evidence.keys is not None
        scores, count = self.score(evidence), self.contextual(budget)
        if not count:
            return take_best(scores, budget)
        tokens = scores.shape[1]
        ranked = torch.sym_min(budget - count, tokens)
        dominant = among(take_exactly(scores, ranked).indices, tokens)  # (B, N)
        step = torch.sym_max(1, (tokens - ranked) // count)
        place = (~dominant).to(torch.int64).cumsum(dim=1) - 1  # among those that are left
        every = torch.arange(count) * step
        is_target = ~dominant & (place.unsqueeze(-1) == every).any(dim=-1)
        kept = take_best((dominant | is_target).to(torch.float32), budget).indices
        no_target = torch.gather(dominant, 1, kept).unsqueeze(-1)  # (B, k, 1)
        alike = likeness(evidence.keys, kept).masked_fill(no_target, float("-inf"))
        goes = going(alike, ~dominant & ~is_target)
        means = torch.matmul(goes, evidence.features) / goes.sum(dim=2, keepdim=True).clamp_min(1)
        features = rows_of(evidence.features, kept) + means
        return Selection(kept, torch.gather(scores, 1, kept), features)
