"""Nothing goes on, so that no score matters."""

import numpy as np

from pocketvlm_export.verification.stage_oracles.base import Doubles, Read


def score(read: Read) -> Doubles:
    """All alike."""
    return np.zeros(len(read.visual))
