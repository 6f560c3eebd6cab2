"""Knows the figures of repeated measurements: a middle, a spread, and every sample."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FENCE = 1.5  # interquartile ranges beyond the quartiles, as box plots draw it (Tukey 1977)


@dataclass(frozen=True)
class Spread:
    """Samples in the order they were taken; none is ever dropped."""

    samples: Sequence[float]

    @property
    def median(self) -> float:
        """The median sample."""
        return statistics.median(self.samples)

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return statistics.fmean(self.samples)

    @property
    def p95(self) -> float:
        """The 95th percentile, interpolated between samples."""
        return float(np.percentile(self.samples, 95))

    @property
    def deviation(self) -> float:
        """The standard deviation with Bessel's correction, as in llama-bench; 0 for one sample."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else 0.0

    @property
    def outliers(self) -> list[float]:
        """Samples that a box plot would draw as single points; they count like all others."""
        if len(self.samples) < 4:
            return []
        low, high = np.percentile(self.samples, [25, 75])
        margin = _FENCE * (high - low)
        return [sample for sample in self.samples if not low - margin <= sample <= high + margin]

    def __str__(self) -> str:
        """Median with the smallest and the largest sample."""
        return f"{self.median:.1f} ({min(self.samples):.1f}-{max(self.samples):.1f})"
