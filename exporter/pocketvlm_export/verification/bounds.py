"""Knows how results are compared, and the bounds of what must be exact; those of a precision or a
GGUF type are in its registry."""

import numpy as np
import torch

from pocketvlm_export.verification.vision_reference import Floats

TOLERANCE = 1e-4  # of max(1, largest absolute reference value)
STEPS = 16  # greedy tokens


def agreement(ours: list[int], theirs: list[int]) -> int:
    """Count the tokens before the first that differs."""
    return next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(theirs)
    )


def within(difference: float, scale: float) -> bool:
    """Whether ``difference`` is tolerable; NaN and infinity are not, on either side."""
    return bool(np.isfinite(scale)) and difference <= TOLERANCE * scale


def cosine(a: Floats, b: Floats) -> float:
    """Return the cosine of two arrays of one shape, as vectors."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def divergence(reference: Floats, measured: Floats) -> Floats:
    """Return the Kullback-Leibler divergence of ``measured`` logits from the ``reference``, in
    nats: (n, vocab) twice -> (n,)."""
    p, q = (torch.from_numpy(rows).double().log_softmax(dim=1) for rows in (reference, measured))
    result: Floats = (p.exp() * (p - q)).sum(dim=1).numpy()
    return result
