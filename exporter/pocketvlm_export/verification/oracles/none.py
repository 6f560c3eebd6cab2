"""No pruning: nothing is ranked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Encoded, Ranking


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """All patches alike."""
    return Ranking(np.zeros(len(encoded.features)))
