"""What each pruning method should keep, written again in numpy and float64; a new one is a module
and a line here."""

from collections.abc import Mapping

from pocketvlm_export.verification.oracles import (
    divprune,
    fastervlm,
    gprune,
    none,
    random,
    received_attention,
    uniform,
    vtc_cls,
)
from pocketvlm_export.verification.oracles.base import Oracle, Ranking, Seen

ORACLES: Mapping[str, Oracle] = {
    "fastervlm": fastervlm.rank,
    "vtc-cls": vtc_cls.rank,
    "gprune": gprune.rank,
    "divprune": divprune.rank,
    "received-attention": received_attention.rank,
    "uniform": uniform.rank,
    "random": random.rank,
    "none": none.rank,
}

__all__ = ["ORACLES", "Oracle", "Ranking", "Seen"]
