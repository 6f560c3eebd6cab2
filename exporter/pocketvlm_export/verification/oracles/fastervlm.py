"""FasterVLM (arXiv 2412.01818): the mean over heads of the [CLS] row of the last map."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Encoded, Ranking, means_of_squares


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Row 0, without its own column; of a square of patches the mean."""
    row = encoded.attentions[-1][:, 0, 1:].mean(axis=0, dtype=np.float64)
    return Ranking(means_of_squares(row, encoded))
