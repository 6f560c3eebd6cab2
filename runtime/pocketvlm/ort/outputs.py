"""Knows that what a graph has computed is what it was asked for: shapes, rising numbers, finite
values.

ONNX Runtime holds an output's type against its declaration when it opens a graph, and its shape
never: where a graph computes another one, it writes a warning to its log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import EngineError

_ADVICE = "the graph is not a sound one, export the artifact again"


def check_shapes(
    graph: str, shapes: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]
) -> None:
    """Raise `EngineError` where an output of the graph called ``graph`` has another shape than
    ``expected``."""
    for name, shape in expected.items():
        if tuple(shapes[name]) != tuple(shape):
            raise EngineError(
                f"{graph} gave {name} of shape {_text(shapes[name])}",
                expected=_text(shape),
                advice=_ADVICE,
            )


def check_rising(graph: str, name: str, numbers: npt.NDArray[np.int64], end: int) -> None:
    """Raise `EngineError` where the numbers int64 (..., k) of an output are not ascending, each
    once, within 0..end - 1."""
    if numbers.size == 0:
        return
    first, last = int(numbers[..., 0].min()), int(numbers[..., -1].max())
    if first < 0 or last >= end or (np.diff(numbers, axis=-1) <= 0).any():
        raise EngineError(
            f"{graph} gave {name} of {int(numbers.min())}..{int(numbers.max())}",
            expected=f"ascending numbers of 0..{end - 1}, each once",
            advice=_ADVICE,
        )


def check_finite(graph: str, name: str, values: npt.NDArray[np.float32]) -> None:
    """Raise `EngineError` where an output has values that are NaN or overflowed."""
    # NaN goes through both; no array of truth values is made.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise EngineError(
            f"{graph} gave {name} that are not finite",
            advice="try another precision, or export the artifact again",
        )


def shapes_of(outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """The shape of each array."""
    return {name: array.shape for name, array in outputs.items()}


def _text(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
