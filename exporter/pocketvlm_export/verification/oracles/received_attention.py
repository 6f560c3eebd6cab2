"""Received attention: the mean of a patch's column of the last map over heads and patches."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Ranking, Seen


def rank(seen: Seen, options: Mapping[str, Any]) -> Ranking:
    """Neither what [CLS] pays nor what is paid to it counts."""
    total = seen.attentions[-1].sum(axis=0, dtype=np.float64)[seen.before :, seen.before :]
    return Ranking(total.sum(axis=0) / (len(seen.attentions[-1]) * len(total)))
