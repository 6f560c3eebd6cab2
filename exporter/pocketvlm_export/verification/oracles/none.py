"""No pruning: nothing is ranked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Ranking, Seen


def rank(seen: Seen, options: Mapping[str, Any]) -> Ranking:
    """All patches alike."""
    return Ranking(np.zeros(len(seen.features)))
