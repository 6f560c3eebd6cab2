"""Knows which numbers of a graph's outputs a self-test keeps: a few, whatever the hidden size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pocketvlm.selftest.computing import TestAnswer
from pocketvlm.selftest.expected import ExpectedAnswer, ExpectedBatch, Sample
from pocketvlm.selftest.judging import SCORES, output
from pocketvlm.vision.features import VisionFeatures

_ROWS, _COLUMNS = 32, 32  # of features: tokens, and numbers of each
_LOGITS = 96  # spread over the vocabulary, beside the largest
_LARGEST = 8  # logits of each step
_ATTENDED = 64  # visual tokens

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def sample_batch(features: VisionFeatures) -> ExpectedBatch:
    """Return all kept indices, and of tokens spread over the tiles some features, further ones and
    their scores."""
    tiles, k = features.kept_indices.shape
    flat = _spread(tiles * k, _ROWS)
    at = flat // k, flat % k
    columns = _spread(features.image_features.shape[-1], _COLUMNS)
    names = ["image_features", SCORES, *features.extras]
    samples = {}
    for name in names:
        whole = output(features, name)
        rows = whole[at]  # (rows,) or (rows, hidden)
        values = rows[:, None] if name == SCORES else rows[:, columns]
        samples[name] = Sample(values, float(np.abs(whole).max()))
    rows_of = np.stack([at[0], features.kept_indices[at]], axis=1)
    return ExpectedBatch(features.kept_indices, rows_of, columns, samples)


def sample_answer(answer: TestAnswer) -> ExpectedAnswer:
    """Return the largest logits of each step and some that are spread over the vocabulary; and what
    attention paid to some visual tokens, where the decoder says so."""
    logits, paid = answer.logits, answer.attention
    largest = np.argsort(-logits, axis=1, kind="stable")[:, :_LARGEST]
    columns = np.union1d(largest.ravel(), _spread(logits.shape[1], _LOGITS)).astype(np.int64)
    sample = Sample(logits[:, columns], float(np.abs(logits).max()))
    if paid is None:
        return ExpectedAnswer(answer.token_ids, columns, sample, {}, {})
    attended = _spread(len(paid), _ATTENDED)
    attention = Sample(paid[None, attended], float(np.abs(paid).max()))
    return ExpectedAnswer(answer.token_ids, columns, sample, {}, {}, attention, attended)


def _spread(count: int, most: int) -> Ints:
    """At most so many numbers below ``count``, evenly apart, ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
