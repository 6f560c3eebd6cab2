"""Uniform: patches spread evenly over the picture whatever is in it, a baseline."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pocketvlm_export.pruning.fixed import FixedOrder


class Uniform(FixedOrder):
    """The patches that Halton's sequence (1960), bases 2 and 3, comes to first.

    Every part of the sequence is spread evenly over the square, so that each budget is, and budgets
    are nested. Rows and columns at equal distances would do neither for most numbers.
    """

    name: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Evenly spaced"
    keeps: ClassVar[str] = "of an even pattern, the same for every picture"

    def order(self, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
        """See `FixedOrder.order`."""
        rows, columns = grid
        visited: dict[int, None] = {}  # patches in the order of the sequence
        number = 1
        while len(visited) < rows * columns:
            row, column = _cell(number, 3, rows), _cell(number, 2, columns)
            visited[row * columns + column] = None
            number += 1
        return np.array(list(visited))


def _cell(number: int, base: int, cells: int) -> int:
    """In which of ``cells`` equal parts of 0..1 the radical inverse of ``number`` lies, in whole
    numbers."""
    reversed_digits, size = 0, 1
    while number:
        number, digit = divmod(number, base)
        reversed_digits, size = reversed_digits * base + digit, size * base
    return reversed_digits * cells // size
