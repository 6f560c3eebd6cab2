"""Evenly spaced: the patches that Halton's sequence comes to first, by its digits."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import count
from typing import Any

import numpy as np

from pocketvlm_export.verification.oracles.base import Encoded, Ranking


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Column by the digits in base 2, row by those in base 3, mirrored at the point."""
    rows, columns = encoded.grid
    places: dict[int, int] = {}
    for number in count(1):
        if len(places) == rows * columns:
            break
        patch = int(_mirrored(number, 3) * rows) * columns + int(_mirrored(number, 2) * columns)
        places.setdefault(patch, len(places))
    every = 1 - np.array([places[patch] for patch in range(rows * columns)]) / (rows * columns)
    return Ranking(encoded.there(every))


def _mirrored(number: int, base: int) -> Fraction:
    digits = []
    while number:
        digits.append(number % base)
        number //= base
    return sum((Fraction(digit, base ** (at + 1)) for at, digit in enumerate(digits)), Fraction(0))
