"""SCoRe: the patches that differ most from each other, weighted by attention (Salience-Coverage
Reduction, CVPR 2026, https://cvpr.thecvf.com/virtual/2026/poster/39155)."""

from collections.abc import Mapping
from typing import ClassVar

from pocketvlm_export.pruning.base import Evidence, Selection
from pocketvlm_export.pruning.cosines import cosines
from pocketvlm_export.pruning.greedy import farthest_first, in_raster_order
from pocketvlm_export.pruning.options import Choice, Option
from pocketvlm_export.pruning.weighted import FEATURES, WEIGHT, Weighted


class SCoRe(Weighted):
    """Greedy max-min over distances 1 - cosine, weighted by attention.

    First the patch of the largest weight, then, again and again, the one whose distance from the
    nearest that is kept, times its weight, is largest. With ``alpha`` 0 that is DivPrune with
    another first pick, and with a large one FasterVLM. The paper's ``alpha`` is 0.8, on what the
    projector reads; on the demo's questions 0.3, on what it makes of that, was better, and is the
    default.

    In float32 whatever the precision of the graph; where several patches come out alike up to
    rounding, rounding decides which is picked.
    """

    name: ClassVar[str] = "score"
    title: ClassVar[str] = "SCoRe"
    paper: ClassVar[str] = "[CVPR 2026](https://cvpr.thecvf.com/virtual/2026/poster/39155)"
    keeps: ClassVar[str] = "that differ most from each other and are attended to"
    accepts: ClassVar[Mapping[str, Option | Choice]] = {
        "features": FEATURES,
        "weight": WEIGHT,
        "alpha": Option(float, 0.0, 4.0, 0.3),
    }

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` first picks in raster order, all N patches where there are
        fewer."""
        distances = 1 - cosines(self.vectors(evidence))
        picks = farthest_first(distances, budget, self.weights(evidence))
        return in_raster_order(picks, evidence)
