"""VTC-CLS (arXiv 2412.05819): the [CLS] rows of all maps from ``start_layer`` on, means over heads,
added up."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Encoded, Ranking, means_of_squares


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Rows 0, without their own columns; of a square of patches the mean."""
    rows = np.stack(
        [layer[:, 0, 1:] for layer in encoded.attentions[options["start_layer"] :]]
    )  # (layers, heads, N)
    return Ranking(means_of_squares(rows.mean(axis=1, dtype=np.float64).sum(axis=0), encoded))
