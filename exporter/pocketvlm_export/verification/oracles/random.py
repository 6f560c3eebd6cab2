"""Random: a permutation drawn with the method's seed; that it is this one is all that can be
checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Encoded, Ranking


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """The earlier drawn, the higher."""
    drawn = np.random.RandomState(options["seed"]).permutation(int(np.prod(encoded.grid)))
    scores = np.empty(len(drawn))
    scores[drawn] = 1 - np.arange(len(drawn)) / len(drawn)
    return Ranking(encoded.there(scores))
