"""Received attention: the mean of a patch's column of the last map over heads and patches."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Encoded, Ranking, means_of_squares


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Neither what [CLS] pays nor what is paid to it counts."""
    total = encoded.attentions[-1].sum(axis=0, dtype=np.float64)[encoded.before :, encoded.before :]
    scores = total.sum(axis=0) / (len(encoded.attentions[-1]) * len(total))
    return Ranking(means_of_squares(scores, encoded))
