"""Knows how the patches that a graph kept compare with those of its reference, a picture at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pocketvlm.vision import VisionFeatures
from pocketvlm_export.verification.reference import Floats, Ints, VisionReference


@dataclass(frozen=True)
class KeptRow:
    """One picture of one budget.

    Attributes:
        same: the kept indices are equal, order included.
        ascending: ours are in raster order, none twice.
        overlap: part of the reference's patches that we kept too.
        cut_distance: how far from the cut the patches lie that one side alone kept, as the largest difference of their
            reference scores from that of the last patch kept, relative to it; 0 where both kept the same.
        ours, theirs: features of the patches that both kept, (n, hidden).
        score_difference: largest difference of those patches' scores.
    """

    same: bool
    ascending: bool
    overlap: float
    cut_distance: float
    ours: Floats
    theirs: Floats
    score_difference: float


def compare_kept(found: VisionFeatures, reference: VisionReference) -> Iterator[KeptRow]:
    """Compare picture by picture."""
    for row, theirs in enumerate(reference.kept_indices):
        ours = found.kept_indices[row]
        common, at_ours, at_theirs = np.intersect1d(ours, theirs, return_indices=True)
        yield KeptRow(
            same=np.array_equal(ours, theirs),
            ascending=bool((np.diff(ours) > 0).all()),
            overlap=len(common) / len(theirs),
            cut_distance=_cut_distance(np.setxor1d(ours, theirs), theirs, reference.scores[row]),
            ours=found.image_features[row][at_ours],
            theirs=reference.image_features[row][at_theirs],
            score_difference=largest(found.kept_scores[row][at_ours] - reference.kept_scores[row][at_theirs]),
        )


def largest(values: Floats) -> float:
    """Return the largest absolute value, NaN where there is one, 0 of nothing."""
    return float(np.abs(values).max()) if values.size else 0.0


def _cut_distance(exchanged: Ints, kept: Ints, scores: Floats) -> float:
    if not exchanged.size:
        return 0.0
    if exchanged.min() < 0 or exchanged.max() >= len(scores):
        return float("inf")
    cut = float(scores[kept].min())
    distance = float(np.abs(scores[exchanged].astype(np.float64) - cut).max())
    return distance / cut if cut else float("inf" if distance else 0.0)
