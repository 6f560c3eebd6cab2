"""DivPrune: the patches that differ most from each other (Alvar et al., CVPR 2025, arXiv
2503.02175)."""

from typing import ClassVar

from pocketvlm_export.pruning.base import Evidence, Pruner, Reads, Selection
from pocketvlm_export.pruning.cosines import cosines
from pocketvlm_export.pruning.greedy import farthest_first, in_raster_order


class DivPrune(Pruner):
    """Greedy max-min over distances 1 - cosine of the projected features.

    First the patch whose nearest neighbour is farthest away, then, again and again, the one
    farthest from all that are kept. The order of picking does not depend on the budget: the j first
    picks are those of a budget of j. Scores give it, 1 - pick / N. The authors do not keep the
    selection from picking a patch again where features are equal; here it is kept. In float32
    whatever the precision of the graph; where several features are equal up to rounding, rounding
    decides which is picked.
    """

    name: ClassVar[str] = "divprune"
    title: ClassVar[str] = "DivPrune"
    paper: ClassVar[str] = "[arXiv 2503.02175](https://arxiv.org/abs/2503.02175)"
    keeps: ClassVar[str] = "that differ most from each other"
    reads: frozenset[Reads] = frozenset({"projected"})

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` first picks in raster order, all N patches where there are
        fewer."""
        assert evidence.projected is not None
        picks = farthest_first(1 - cosines(evidence.projected), budget)
        return in_raster_order(picks, evidence)
