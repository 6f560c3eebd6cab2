"""Knows the gate's side of merging: what the decoder reads of the tokens that a method mixed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pocketvlm.artifact.specs import Pruning
from pocketvlm_export.pruning.base import Pruner
from pocketvlm_export.verification.oracles import Encoded, Ranking, average_dropped
from pocketvlm_export.verification.oracles.base import Doubles, Ints, Mixture

Floats = npt.NDArray[np.float32]
# (kept (k,), their scores (k,)) -> what becomes of them
_Mix = Callable[[Ints, npt.NDArray[np.floating[Any]]], Mixture]


@dataclass(frozen=True)
class Mixer:
    """How the tokens of one picture are merged into those that are kept of it.

    Attributes:
        mix: what becomes of kept tokens.
        tokens: what is mixed, (N, C).
        project: what makes of that what the decoder reads.
    """

    mix: _Mix
    tokens: Doubles
    project: Callable[[torch.Tensor], torch.Tensor]

    def rows(
        self, kept: Ints, scores: npt.NDArray[np.floating[Any]]
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return what the decoder reads where these are kept, (k, hidden), and which rows of it no
        rounding decides, see `Mixture.certain`."""
        mixture = self.mix(kept, scores)
        mixed = (mixture.weights @ self.tokens).astype(np.float32)
        with torch.inference_mode():
            projected = self.project(torch.from_numpy(mixed)).numpy()
        return np.asarray(projected), mixture.certain


def make_mixer(
    pruning: Pruning, pruner: Pruner, encoded: Encoded, ranking: Ranking, projector: nn.Module
) -> Mixer:
    """Return how ``pruner``, which merges, does so with a picture.

    ``projector`` maps (..., C) to (..., hidden): the graph's own, which without merging is compared
    with transformers' connector.
    """
    late = "projected" in pruner.reads
    tokens = encoded.projected if late else encoded.features
    mix: _Mix = ranking.mixture
    if pruning.merge_dropped:
        mix = partial(_averaged, tokens)
    return Mixer(mix, tokens, nn.Identity() if late else projector)


def _averaged(tokens: Doubles, kept: Ints, scores: npt.NDArray[np.floating[Any]]) -> Mixture:
    """`average_dropped`, for which scores do not matter."""
    return average_dropped(tokens, kept)
