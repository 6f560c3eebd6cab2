"""Knows what an oracle of a decoder's stage reads: a whole prompt, and the whole map of the layer
before."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Read:
    """What transformers' own modules computed of one prompt of S tokens up to a stage.

    Attributes:
        embeds: what the first layer reads, (S, hidden).
        visual: positions of all tokens of pictures, int64 (v,), ascending.
        attention: softmaxed map of the layer before the stage, (heads, S, S); columns of tokens
            that earlier stages have dropped are 0, and their rows are not used.
        given: scores that came with the pictures' tokens, (v,); None where none did.
    """

    embeds: Doubles
    visual: npt.NDArray[np.int64]
    attention: Doubles
    given: Doubles | None = None


# Returns a score for each visual token, (v,), also for those that have been dropped already.
StageOracle = Callable[[Read], Doubles]
