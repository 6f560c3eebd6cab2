"""An even pattern: every second token of a checkerboard, of those every second, by taking them
apart list by list."""

from collections.abc import Sequence

import numpy as np

from pocketvlm_export.verification.tower_stages.base import Choice, Layer


def choose(layers: Sequence[Layer], keep: int) -> Choice:
    """The first of that order that are there."""
    rows, columns = layers[-1].grid
    order = [
        row * columns + column
        for row, column in _halved([(r, c, r, c) for r in range(rows) for c in range(columns)])
    ]
    at = {place: number for number, place in enumerate(layers[-1].places.tolist())}
    return Choice(np.sort([at[place] for place in order if place in at][:keep]))


def _halved(cells: list[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
    """(row, column) of all cells, given as (row, column, u, v) on a lattice of their own: first
    those where u + v is even, then the others, each half ordered alike on the lattice turned by 45
    degrees."""
    if len(cells) < 2:
        return [cell[:2] for cell in cells]
    halves: list[list[tuple[int, int, int, int]]] = [[], []]
    for row, column, u, v in cells:
        halves[(u + v) % 2].append((row, column, (u + v) // 2, (u - v) // 2))
    return _halved(halves[0]) + _halved(halves[1])
