"""VTC-CLS: patches ranked by the attention that [CLS] pays them over several layers (arXiv
2412.05819)."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import Evidence, Pruner, Reads
from pocketvlm_export.pruning.options import Choice, Option

_AUTHORS_START, _AUTHORS_LAST = (
    16,
    22,
)  # what the authors' script starts from, and CLIP-L's feature layer in LLaVA


class VTCCLS(Pruner):
    """Sum over layers, from ``start_layer`` to the feature layer, of the mean over heads of the
    [CLS] row.

    Layers count from 0. With the feature layer as the start it is FasterVLM.
    """

    name: ClassVar[str] = "vtc-cls"
    title: ClassVar[str] = "VTC-CLS"
    paper: ClassVar[str] = "[arXiv 2412.05819](https://arxiv.org/abs/2412.05819)"
    keeps: ClassVar[str] = "that its [CLS] token attends to most, over several layers"
    reads: frozenset[Reads] = frozenset({"cls_row"})
    accepts: ClassVar[Mapping[str, Option | Choice]] = {"start_layer": Option(int, 0, 999)}

    def settle(self, vision: VisionSpec) -> None:
        """Start where the authors do, in proportion; raises `RequestError` beyond the feature
        layer."""
        last = vision.score_layer
        self.options.setdefault("start_layer", round(last * _AUTHORS_START / _AUTHORS_LAST))
        start = int(self.options["start_layer"])
        if start > last:
            raise RequestError(
                f"{self.name} option start_layer is {start}, behind layer {last}, whose output "
                "this checkpoint uses",
                advice=f"give 0..{last}",
                setting="pruner_option",
            )

    def first_layer(self, score_layer: int) -> int:
        """See `Pruner.first_layer`."""
        return int(self.options.get("start_layer", score_layer))

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return the sum of each layer's mean over heads, (B, heads, N) each -> (B, N)."""
        return torch.stack([row.mean(dim=1) for row in evidence.cls_rows]).sum(dim=0)
