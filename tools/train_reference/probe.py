"""Knows how much of a picture's class can be read off the tower's [CLS] token by a linear map: what
a tower that was pretrained on photographs should give away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import Dinov2Model

from train_reference.features import pixel_values
from train_reference.things import CIFAR_NOUNS, Thing

EDGE = 112  # pixels to which CIFAR's 32 are enlarged
_CHUNK = 64
_PENALTY = 0.1  # of the ridge, as a part of the features' mean square times their number


@torch.inference_mode()
def cls_tokens(tower: Dinov2Model, things: Sequence[Thing]) -> npt.NDArray[np.float32]:
    """[CLS] behind the last layer and the one before, float32 (2, things, hidden)."""
    parts = []
    for start in range(0, len(things), _CHUNK):
        pictures = [
            Image.fromarray(thing.picture).resize((EDGE, EDGE), Image.Resampling.BICUBIC)
            for thing in things[start : start + _CHUNK]
        ]
        states = tower(pixel_values(pictures), output_hidden_states=True).hidden_states
        parts.append(torch.stack([states[-1][:, 0], states[-2][:, 0]]).numpy())
    return np.concatenate(parts, axis=1)


def classes_of(things: Sequence[Thing]) -> npt.NDArray[np.int64]:
    """CIFAR-10's labels."""
    return np.array([CIFAR_NOUNS.index(thing.noun) for thing in things])


def linear_accuracy(
    train: npt.NDArray[np.float32],
    train_classes: npt.NDArray[np.int64],
    test: npt.NDArray[np.float32],
    test_classes: npt.NDArray[np.int64],
) -> float:
    """Share of ``test`` (n, hidden) that a ridge regression onto classes, fitted to ``train``,
    names rightly."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    x, y = (train - mean) / deviation, np.eye(len(CIFAR_NOUNS))[train_classes]
    penalty = _PENALTY * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (y - y.mean(0)))
    logits = (test - mean) / deviation @ weights + y.mean(0)
    return float((logits.argmax(1) == test_classes).mean())
