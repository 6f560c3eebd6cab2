"""FlowCut with a frozen schedule: scores of attention, values and their size, added up from layer
to layer (Tong et al., NeurIPS 2025, arXiv 2505.19536).

FlowCut itself decides from each picture how many tokens a layer drops. A graph has fixed sizes, so
here the numbers are those of its stages, as a rule the means over some pictures
(`pocketvlm_export.verification.flowcut_schedule`). No accuracy is published of a frozen schedule.
"""

from typing import ClassVar

import torch

from pocketvlm_export.pruning.base import take_exactly
from pocketvlm_export.tower_stages.base import Criterion, RowReads, Seen


class FlowCut(Criterion):
    """score = (c / sum c + s / sum s) |mean over heads of v_j|_1, with c the [CLS] row, mean over
    heads, and s the mean over heads of softmax(v_cls v_j). Over the layers so far: the first one's,
    then half of what is carried and half of the layer's own.

    Its authors drop in layers with odd numbers (stages before even ones), the last time before the
    layer whose attention ranks patches in the end.
    """

    name: ClassVar[str] = "flowcut"
    keeps: ClassVar[str] = "whose attention and values score highest over all layers so far"
    paper: ClassVar[str] = "[FlowCut](https://arxiv.org/abs/2505.19536)"
    watches: ClassVar[frozenset[RowReads]] = frozenset({"cls_row", "values"})
    needs_cls: ClassVar[bool] = True

    def carry(self, seen: Seen) -> torch.Tensor:
        """See `Criterion.carry`."""
        assert seen.cls_row is not None
        assert seen.values is not None
        assert seen.cls_value is not None
        attended = seen.cls_row.mean(dim=1)  # (B, n)
        products = torch.matmul(seen.values, seen.cls_value.unsqueeze(3)).squeeze(3)
        similar = products.softmax(dim=-1).mean(dim=1)
        size = seen.values.mean(dim=1).abs().sum(dim=-1)
        shares = attended / attended.sum(dim=1, keepdim=True) + similar
        return shares * size if seen.carried is None else 0.5 * seen.carried + 0.5 * shares * size

    def choose(self, seen: Seen, keep: int) -> torch.Tensor:
        """See `Criterion.choose`; this layer's scores are carried already."""
        assert seen.carried is not None
        return take_exactly(seen.carried, keep).indices
