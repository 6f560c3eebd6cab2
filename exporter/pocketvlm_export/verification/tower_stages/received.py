"""By received attention: the columns of the last map, means over heads and those who pay."""

from collections.abc import Sequence

import numpy as np

from pocketvlm_export.verification.tower_stages.base import Choice, Layer, best


def choose(layers: Sequence[Layer], keep: int) -> Choice:
    """Neither what [CLS] pays nor what is paid to it counts."""
    last = layers[-1]
    paid = last.maps[:, last.before :, last.before :].astype(np.float64)
    return best(last.by_token(paid.mean(axis=(0, 1))), keep)
