"""By [CLS]: row 0 of the last map, the mean over heads."""

from collections.abc import Sequence

import numpy as np

from pocketvlm_export.verification.tower_stages.base import Choice, Layer, best


def choose(layers: Sequence[Layer], keep: int) -> Choice:
    """Without its own column."""
    return best(layers[-1].by_token(layers[-1].maps[:, 0, 1:].mean(axis=0, dtype=np.float64)), keep)
