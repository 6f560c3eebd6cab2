"""Knows how results are compared, and the bounds that they must keep: exact ones, and those of each
precision."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pocketvlm_export.verification.reference import Floats

TOLERANCE = 1e-4  # of max(1, largest absolute reference value)
STEPS = 16  # greedy tokens


@dataclass(frozen=True)
class VisionBounds:
    """What a vision graph that is not float32 may lose.

    Attributes:
        cosine: least, of the features of the patches that both sides kept.
        overlap: least part of the reference's patches that are kept too.
        near: patches may be exchanged beyond that where their scores lie this near the cut,
            relatively: there a rounding decides.
    """

    cosine: float
    overlap: float
    near: float


# Of a picture, whichever loses most. An integer tower of random weights ranks patches that hardly
# differ.
VISION_BOUNDS: Mapping[str, VisionBounds] = {
    "fp16": VisionBounds(cosine=0.999, overlap=0.9, near=0.02),
    "int8": VisionBounds(cosine=0.99, overlap=0.8, near=0.1),
}
# Least cosine of the logits of all positions, by precision of the ONNX decoder or type of the GGUF
# file. Lower ones mean a broken file: random decoders are the hardest case. Four bits left .88 of
# one 64 wide, .61 of one of the size of Qwen2-0.5B and .999 of a trained one; eight left .973 and
# .9999 of the last two.
LOGITS_COSINE: Mapping[str, float] = {
    "fp16": 0.999,
    "int8": 0.95,
    "int4": 0.5,
    "int4_b128": 0.5,
    "f16": 0.999,
    "q8_0": 0.95,
    "q4_0": 0.5,
    "q4_k_m": 0.5,
}


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


def divergence(reference: Floats, found: Floats) -> Floats:
    """Kullback-Leibler divergence of what is ``found`` from the ``reference``, in nats: (n, vocab)
    twice -> (n,)."""
    p, q = (torch.from_numpy(rows).double().log_softmax(dim=1) for rows in (reference, found))
    result: Floats = (p.exp() * (p - q)).sum(dim=1).numpy()
    return result
