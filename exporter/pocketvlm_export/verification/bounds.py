"""Knows how results are compared, and the bound that what is exact must keep."""

import numpy as np

from pocketvlm_export.verification.reference import Floats

TOLERANCE = 1e-4  # of max(1, largest absolute reference value)
STEPS = 16  # greedy tokens


def agreement(ours: list[int], theirs: list[int]) -> int:
    """Count the tokens before the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(theirs))


def within(difference: float, scale: float) -> bool:
    """Whether ``difference`` is tolerable; NaN and infinity are not, on either side."""
    return bool(np.isfinite(scale)) and difference <= TOLERANCE * scale


def cosine(a: Floats, b: Floats) -> float:
    """Return the cosine of two arrays of one shape, as vectors."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
