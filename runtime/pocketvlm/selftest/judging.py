"""Knows how what a device computed compares with what is expected: figures and their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.selftest.computing import TestAnswer
from pocketvlm.selftest.expected import Bounds, ExpectedAnswer, ExpectedBatch, ExpectedVision
from pocketvlm.selftest.result import Figure
from pocketvlm.vision.features import VisionFeatures

Floats = npt.NDArray[np.float32]

SCORES = "kept_scores"
_SMALL = 1e-6  # a difference of scores that are 0, as those of methods that rank nothing


def judge_vision(
    features: Sequence[VisionFeatures], expected: ExpectedVision, bounds: Bounds
) -> list[Figure]:
    """Figures of what a vision graph keeps of each batch: the kept set, the features and scores of
    sampled tokens that both kept."""
    figures = [Figure("kept", kept_overlap(features, expected), bounds.kept_overlap or 0.0)]
    pairs = list(_pairs(features, expected))
    sampled = [(ours, theirs) for name, ours, theirs, _ in pairs if name != SCORES]
    figures.append(Figure("features", _cosine_of(sampled), bounds.cosine))
    if bounds.difference is None:
        return figures
    for title, of_scores in (("features differ", False), ("scores differ", True)):
        differences = [
            _relative(ours, theirs, largest if of_scores else max(1.0, largest))
            for name, ours, theirs, largest in pairs
            if (name == SCORES) == of_scores
        ]
        largest = float(np.max(differences)) if differences else float("nan")
        figures.append(Figure(title, largest, bounds.difference, at_least=False))
    return figures


def kept_overlap(features: Sequence[VisionFeatures], expected: ExpectedVision) -> float:
    """The part of the kept indices, of all tiles, that a graph keeps too."""
    shared = total = 0
    for seen, batch in zip(features, expected.batches, strict=True):
        for ours, theirs in zip(seen.kept_indices, batch.kept_indices, strict=True):
            shared += len(np.intersect1d(ours, theirs))
            total += max(len(theirs), len(ours))
    return shared / total


def judge_answer(answer: TestAnswer, expected: ExpectedAnswer, bounds: Bounds) -> list[Figure]:
    """Figures of what a decoder reads of the expected tokens: logits, the largest of each step, and
    what attention paid to visual tokens, where the decoder says so.

    Where a difference is bounded the tokens must be equal too, but for those that the reference
    prefers by less than what two logits may differ.
    """
    ours, theirs = answer.logits[:, expected.columns], expected.logits.values
    figures = [Figure("logits", centred_cosine(ours, theirs), bounds.cosine)]
    token_ids = [int(row.argmax()) for row in answer.logits]
    if bounds.difference is not None:
        largest = max(1.0, expected.logits.largest)
        difference = _relative(ours, theirs, largest)
        figures.append(Figure("logits differ", difference, bounds.difference, at_least=False))
        near = 2 * bounds.difference * largest
        equal = sum(
            _is_token(ours_id, theirs_id, row, expected, near)
            for ours_id, theirs_id, row in zip(token_ids, expected.token_ids, theirs, strict=True)
        )
        figures.append(Figure("tokens", float(equal), float(len(expected.token_ids))))
    return figures + _judge_attention(answer, expected, bounds)


def _judge_attention(answer: TestAnswer, expected: ExpectedAnswer, bounds: Bounds) -> list[Figure]:
    sample, paid = expected.attention, answer.attention
    if sample is None or expected.attended is None:
        return []
    # A graph that keeps other patches may have other slots.
    there = expected.attended < (0 if paid is None else len(paid))
    if paid is None or not there.any():
        return [Figure("attention", 0.0, 1.0)]
    ours, theirs = paid[None, expected.attended[there]], sample.values[:, there]
    figures = [Figure("attention", _cosine_of([(ours, theirs)]), bounds.cosine)]
    if bounds.difference is not None:
        difference = _relative(ours, theirs, sample.largest)
        figures.append(Figure("attention differs", difference, bounds.difference, at_least=False))
    return figures


def centred_cosine(ours: Floats, theirs: Floats) -> float:
    """The cosine of logits (steps, m), those of each step less their mean: what a softmax sees."""
    rows = (each.astype(np.float64) for each in (ours, theirs))
    a, b = ((each - each.mean(axis=1, keepdims=True)).ravel() for each in rows)
    return _cosine(a, b)


def _is_token(ours: int, theirs: int, row: Floats, expected: ExpectedAnswer, near: float) -> bool:
    (at,) = np.nonzero(expected.columns == ours)
    return ours == theirs or bool(at.size and row.max() - row[at[0]] <= near)


def _pairs(
    features: Sequence[VisionFeatures], expected: ExpectedVision
) -> Iterator[tuple[str, Floats, Floats, float]]:
    """Of each output and batch: its name, what a graph gave for sampled tokens that it kept too,
    what is expected, and the largest value."""
    for seen, batch in zip(features, expected.batches, strict=True):
        at = [(row, place) for row, place in enumerate(_places(seen, batch)) if place is not None]
        if not at:
            continue
        rows = [row for row, _ in at]
        tiles, tokens = np.array([place for _, place in at]).T
        for name, sample in batch.samples.items():
            ours = output(seen, name)[tiles, tokens]
            columns = ours[:, None] if name == SCORES else ours[:, batch.columns]
            yield name, columns, sample.values[rows], sample.largest


def output(features: VisionFeatures, name: str) -> Floats:
    """An output of a vision graph by its name: scores (tiles, k), features (tiles, k, hidden)."""
    own = {"image_features": features.image_features, SCORES: features.kept_scores}
    return own[name] if name in own else features.extras[name]


def _places(features: VisionFeatures, batch: ExpectedBatch) -> Iterator[tuple[int, int] | None]:
    """Of each sampled token its tile and number among the kept ones; None where it is not kept."""
    for tile, index in batch.rows.tolist():
        (at,) = np.nonzero(features.kept_indices[tile] == index)
        yield (tile, int(at[0])) if at.size else None


def _relative(ours: Floats, theirs: Floats, scale: float) -> float:
    """The largest difference as a part of ``scale``."""
    difference = np.abs(ours.astype(np.float64) - theirs).max()
    return float(difference / max(scale, _SMALL))


def _cosine_of(pairs: Sequence[tuple[Floats, Floats]]) -> float:
    """The cosine of all pairs as two vectors; 0 of none."""
    if not pairs:
        return 0.0
    a, b = (
        np.concatenate([each[side].astype(np.float64).ravel() for each in pairs]) for side in (0, 1)
    )
    return _cosine(a, b)


def _cosine(a: npt.NDArray[np.floating[Any]], b: npt.NDArray[np.floating[Any]]) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    if length == 0:  # nothing but zeros is equal to nothing but zeros
        return float(not a.any() and not b.any())
    return float(a @ b / length)
