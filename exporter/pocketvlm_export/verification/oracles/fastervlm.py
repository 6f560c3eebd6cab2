"""FasterVLM (arXiv 2412.01818): the mean over heads of the [CLS] row of the last map."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Encoded, Ranking


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Row 0, without its own column."""
    return Ranking(encoded.attentions[-1][:, 0, 1:].mean(axis=0, dtype=np.float64))
