"""Knows what weighted methods read of a picture: the features that they compare, and the attention
they weight patches by."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles import fastervlm, received_attention
from pocketvlm_export.verification.oracles.base import Doubles, Encoded

_ATTENTION = {"cls": fastervlm.rank, "received": received_attention.rank}


def vectors_of(encoded: Encoded, options: Mapping[str, Any]) -> Doubles:
    """Return the features that are compared, (N, C)."""
    return encoded.features if options["features"] == "tower" else encoded.projected


def weights_of(encoded: Encoded, options: Mapping[str, Any]) -> Doubles:
    """Return each patch's weight, (N,), as it enters: attention to the power of alpha."""
    if options["weight"] == "none":
        return np.ones(len(encoded.projected))
    attention = _ATTENTION[options["weight"]](encoded, {}).scores
    return np.asarray(attention ** options["alpha"])
