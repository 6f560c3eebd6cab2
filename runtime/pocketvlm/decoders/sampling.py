"""Knows how the next token is picked from logits: greedy, or temperature and nucleus sampling with
a seed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import RequestError


def check(temperature: float, top_p: float, seed: int | None) -> None:
    """Raise `PocketVLMError` for a temperature below 0 or not finite, top_p outside (0, 1], or a
    seed below 0."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise RequestError(f"temperature {temperature}", expected="0 (greedy) or a number above it")
    if not 0 < top_p <= 1:
        raise RequestError(f"top_p {top_p}", expected="a number above 0, up to 1")
    if seed is not None and seed < 0:
        raise RequestError(f"seed {seed}", expected="0 or a number above it")


def check_finite(logits: npt.NDArray[np.float32]) -> None:
    """Raise `PocketVLMError` for logits that are NaN or overflowed."""
    if not np.isfinite(logits.max()):  # NaN wherever one logit is
        raise RequestError(
            "the decoder's logits are not finite",
            advice="try another --decoder-precision, or export again",
        )


class Sampler:
    """Picks tokens; with the same seed and the same logits it picks the same tokens.

    Args:
        temperature: 0 is greedy (the highest logit, ties to the lower id); above, logits are
            divided by it.
        top_p: sample from the smallest set of tokens whose probability reaches this (nucleus
            sampling, Holtzman et al. 2020, section 3.1); 1 samples from all.
        seed: of numpy's PCG64; None takes fresh entropy.

    Raises:
        PocketVLMError: see `check`.
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        check(temperature, top_p, seed)
        self.temperature = temperature
        self.top_p = top_p
        self._rng = np.random.default_rng(seed)

    def pick(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token id from float32 (vocab,) logits; raises `PocketVLMError` where they are
        not finite."""
        check_finite(logits)
        if self.temperature == 0:
            return int(np.argmax(logits))
        probabilities = self.probabilities(logits)
        return int(self._rng.choice(probabilities.size, p=probabilities))

    def probabilities(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The distribution that `pick` draws from, float64 (vocab,): softmax(logits / temperature),
        cut to the nucleus.

        A token stays while the tokens strictly before it, in falling order of probability, sum to
        less than top_p: so the token that crosses the line stays, and at least one does.
        """
        scaled = logits.astype(np.float64)
        scaled = (
            scaled - scaled.max()
        ) / self.temperature  # shifted first: a tiny temperature must not make inf - inf
        probabilities = np.exp(scaled)
        probabilities /= probabilities.sum()
        if self.top_p < 1:
            order = np.argsort(-probabilities, kind="stable")
            falling = probabilities[order]
            before = np.cumsum(falling) - falling
            probabilities[order[before >= self.top_p]] = 0.0
            probabilities /= probabilities.sum()
        return probabilities
