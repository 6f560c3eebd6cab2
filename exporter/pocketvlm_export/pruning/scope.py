"""SCOPE: the patches that together are most like the whole picture, weighted by attention (Deng
et al., NeurIPS 2025, arXiv 2510.24214)."""

from collections.abc import Mapping
from typing import ClassVar

from pocketvlm_export.pruning.base import Evidence, Selection
from pocketvlm_export.pruning.cosines import cosines
from pocketvlm_export.pruning.greedy import in_raster_order, widest_cover
from pocketvlm_export.pruning.options import Choice, Option
from pocketvlm_export.pruning.weighted import FEATURES, WEIGHT, Weighted


class Scope(Weighted):
    """Greedy cover, weighted by attention.

    C_ij is the cosine of two patches' features, m_i how far patch i is covered, 0 at first. Again
    and again the patch is picked for which sum_i max(0, C_ij - m_i) times its weight is largest,
    and m_i becomes max(m_i, C_i,pick). With ``alpha`` 0, or no weight, only cover counts. The
    authors compare what the projector reads; what it makes of that was better on the demo's
    questions, and is the default.

    In float32 whatever the precision of the graph; where several patches add as much up to
    rounding, rounding decides which is picked.
    """

    name: ClassVar[str] = "scope"
    title: ClassVar[str] = "SCOPE"
    paper: ClassVar[str] = "[arXiv 2510.24214](https://arxiv.org/abs/2510.24214)"
    keeps: ClassVar[str] = "that together are most like the whole picture"
    accepts: ClassVar[Mapping[str, Option | Choice]] = {
        "features": FEATURES,
        "weight": WEIGHT,
        "alpha": Option(float, 0.0, 4.0, 1.0),
    }

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` first picks in raster order, all N patches where there are
        fewer."""
        alike = cosines(self.vectors(evidence))
        picks = widest_cover(alike, budget, self.weights(evidence))
        return in_raster_order(picks, evidence)
