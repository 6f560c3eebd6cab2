"""Knows how sure an answer is of itself, and what it looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pocketvlm.decoders.base import DecoderSequence
from pocketvlm.decoders.scoring import ScoringSequence


@dataclass
class Witness:
    """What an answer leaves behind besides its text; a new one for each answer.

    Attributes:
        log_probability: the sum of the log-probabilities that the model gives its tokens, the end
            of sequence included, whatever they were sampled by.
        kept_indices: as `Answer` has them.
        visual_scores: of each picture what its tokens were paid, float64 (n,), see
            `pocketvlm.decoders.scoring.ScoringSequence`; empty where the decoder does not say.
    """

    log_probability: float = 0.0
    kept_indices: list[list[int]] = field(default_factory=list)
    visual_scores: list[npt.NDArray[np.float64]] = field(default_factory=list)

    @property
    def confidence(self) -> float:
        """The product of the tokens' probabilities."""
        return math.exp(self.log_probability)

    def picked(self, logits: npt.NDArray[np.float32], token_id: int) -> None:
        """Count a token that was picked from logits float32 (vocab,)."""
        above = logits.astype(np.float64) - float(logits.max())
        self.log_probability += float(above[token_id] - np.log(np.exp(above).sum()))

    def looked(self, sequence: DecoderSequence, tokens: Sequence[int]) -> None:
        """Take what a sequence of pictures with so many ``tokens`` each says of them."""
        if isinstance(sequence, ScoringSequence):
            ends = np.cumsum(np.array(tokens, dtype=np.int64))[:-1]
            self.visual_scores = np.split(sequence.visual_scores, ends) if len(tokens) else []
