"""Nothing is kept, so that no score matters."""

import numpy as np

from pocketvlm_export.verification.decoder_stages.base import Doubles, Read


def score(read: Read) -> Doubles:
    """All alike."""
    return np.zeros(len(read.visual))
