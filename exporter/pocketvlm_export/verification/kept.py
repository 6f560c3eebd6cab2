"""Knows how the patches that a graph kept compare with those of its reference, one picture at a
time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.verification.vision_reference import Floats, VisionReference


@dataclass(frozen=True)
class KeptRow:
    """One picture of one budget.

    Attributes:
        same: the kept indices are equal, order included.
        ascending: ours are in raster order, none twice.
        overlap: part of the reference's patches that we kept too.
        cut_distance: how far what we kept is from what the method would have kept, see
            `Ranking.distance`.
        ours, theirs: features of the patches that both kept, (n, hidden), and further features
            beside them. Where a method merges, of all that we kept, as it would have merged what we
            dropped, but for those that a rounding decides.
        score_difference: see `Ranking.score_difference`; infinite where a number is not a patch's.
    """

    same: bool
    ascending: bool
    overlap: float
    cut_distance: float
    ours: Floats
    theirs: Floats
    score_difference: float


def compare_kept(encoded: VisionFeatures, reference: VisionReference) -> Iterator[KeptRow]:
    """Compare what a graph ``encoded`` with its reference, picture by picture.

    Where rounding decides what a stage of the tower drops, the reference is the one that it comes
    nearest to.
    """
    for number in range(len(reference.kept_indices)):
        rows = [_compare(encoded, number, each) for each in reference.candidates(number)]
        yield min(rows, key=_distance)


def is_first_choice(encoded: VisionFeatures, reference: VisionReference) -> bool:
    """Whether a graph kept what its reference keeps, and no tie in its tower or in merging was
    resolved otherwise: then its features are those of the reference too."""
    if not reference.certain or not np.array_equal(encoded.kept_indices, reference.kept_indices):
        return False
    for number in range(len(reference.kept_indices)):
        rows = [_compare(encoded, number, each) for each in reference.candidates(number)]
        if min(rows, key=_distance) is not rows[0]:
            return False
    return True


def _compare(encoded: VisionFeatures, number: int, reference: VisionReference) -> KeptRow:
    """Compare one picture with a reference of it alone."""
    ours, scores = encoded.kept_indices[number], encoded.kept_scores[number]
    theirs, ranking = reference.kept_indices[0], reference.rankings[0]
    our_features = [encoded.image_features, *_in_order(encoded.extras)]
    their_features = [reference.image_features, *_in_order(reference.extras)]
    common, at_ours, at_theirs = np.intersect1d(ours, theirs, return_indices=True)
    our_rows = np.concatenate([each[number] for each in our_features], axis=-1)
    their_rows = np.concatenate([each[0] for each in their_features], axis=-1)
    features = our_rows[at_ours], their_rows[at_theirs]
    if reference.mixers and ranking.are_patches(ours):
        mixed, certain = reference.mixers[0].rows(ours, scores)
        features = our_rows[certain], mixed[certain]
    return KeptRow(
        same=np.array_equal(ours, theirs),
        ascending=bool((np.diff(ours) > 0).all()),
        overlap=len(common) / len(theirs),
        cut_distance=ranking.distance(ours, scores),
        ours=features[0],
        theirs=features[1],
        score_difference=ranking.score_difference(ours, scores)
        if ranking.are_patches(ours)
        else float("inf"),
    )


def _distance(row: KeptRow) -> tuple[float, float]:
    """How far a picture is from a reference: by what is kept, then by the features."""
    return row.cut_distance, largest(row.ours - row.theirs)


def _in_order(extras: Mapping[str, Floats]) -> list[Floats]:
    return [extras[name] for name in sorted(extras)]


def largest(values: npt.NDArray[np.floating[Any]]) -> float:
    """Return the largest absolute value, NaN where there is one, 0 of nothing."""
    return float(np.abs(values).max()) if values.size else 0.0
