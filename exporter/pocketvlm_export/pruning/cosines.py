"""Knows how alike the features of patches are, for the methods that compare each with each."""

import torch


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each vector with each: (B, N, C) -> (B, N, N); 0 with a vector of
    zeros."""
    unit = units(vectors)
    return torch.matmul(unit, unit.transpose(1, 2))


def units(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors of length 1: (..., C) -> (..., C); a vector of zeros stays one."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
