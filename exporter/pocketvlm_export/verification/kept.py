"""Knows how the patches that a graph kept compare with those of its reference, one picture at a
time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.verification.reference import Floats, VisionReference


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
        score_difference: see `Ranking.score_difference`; infinite where a number is no patch's.
    """

    same: bool
    ascending: bool
    overlap: float
    cut_distance: float
    ours: Floats
    theirs: Floats
    score_difference: float


def compare_kept(encoded: VisionFeatures, reference: VisionReference) -> Iterator[KeptRow]:
    """Compare what a graph ``encoded`` with its reference, picture by picture."""
    our_features = np.concatenate([encoded.image_features, *_in_order(encoded.extras)], axis=-1)
    their_features = np.concatenate(
        [reference.image_features, *_in_order(reference.extras)], axis=-1
    )
    for row, theirs in enumerate(reference.kept_indices):
        ours, scores = encoded.kept_indices[row], encoded.kept_scores[row]
        ranking = reference.rankings[row]
        common, at_ours, at_theirs = np.intersect1d(ours, theirs, return_indices=True)
        features = our_features[row][at_ours], their_features[row][at_theirs]
        if reference.mixers and ranking.are_patches(ours):
            mixed, certain = reference.mixers[row].rows(ours, scores)
            features = our_features[row][certain], mixed[certain]
        yield KeptRow(
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


def _in_order(extras: Mapping[str, Floats]) -> list[Floats]:
    return [extras[name] for name in sorted(extras)]


def largest(values: Floats) -> float:
    """Return the largest absolute value, NaN where there is one, 0 of nothing."""
    return float(np.abs(values).max()) if values.size else 0.0
