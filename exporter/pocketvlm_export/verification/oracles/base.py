"""Knows how a method's own ranking of a picture's patches is compared with what a graph kept of
them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """What transformers' own modules computed of one picture.

    Attributes:
        attentions: whole softmaxed maps, float32 (heads, tokens, tokens), of the encoder layers up
            to the one whose output the decoder reads. Their patches are in raster order: a tower
            that has them square by square is reordered first, see `raster_order`. Of a layer that
            only attends within windows any map will do: nothing is ranked by it.
        before: tokens in front of the patches: 1 where there is a [CLS].
        features: every token as the projector reads it, (N, C).
        projected: and as it leaves it, (N, hidden).
        grid: rows and columns of tokens.
        merge: edge of the square of patches that is one token; attention is between patches.
        places: numbers of the tokens that stages of the tower left, n, ascending; None where all N
            are there. With them all else but ``grid`` is of those n, and of their patches token by
            token.
        keys: of the last of these layers as its attention reads them, with what is before the
            patches, float32 (heads, tokens, d), in raster order; None where the method reads none.
        text: input embeddings of the question's tokens, (T, hidden), for methods that read the
            prompt.
    """

    attentions: Sequence[npt.NDArray[np.float32]]
    before: int
    features: Doubles
    projected: Doubles
    grid: tuple[int, int]
    merge: int = 1
    places: Ints | None = None
    keys: npt.NDArray[np.float32] | None = None
    text: Doubles | None = None

    def there(self, scores: Doubles) -> Doubles:
        """Return those of the tokens that are there, of scores of all: (N,) -> (n,)."""
        return scores if self.places is None else scores[self.places]


def means_of_squares(scores: Doubles, encoded: Encoded) -> Doubles:
    """A token's score is the mean of those of its patches, added up one by one: (P,) -> (N,)."""
    if encoded.places is not None:
        squares = scores.reshape(len(encoded.places), encoded.merge**2)
        return np.array([sum(square) / encoded.merge**2 for square in squares])
    means = np.zeros(encoded.grid)
    width = encoded.grid[1] * encoded.merge
    for patch, score in enumerate(scores):
        means[patch // width // encoded.merge, patch % width // encoded.merge] += (
            score / encoded.merge**2
        )
    return means.ravel()


def raster_order(grid: tuple[int, int], merge: int) -> Ints:
    """Return where each patch, row by row, is in a tower that has them square by square, (P,):
    ``map[order][:, order]`` is its map in raster order."""
    rows, columns = grid
    return np.array(
        [
            ((row // merge) * columns + column // merge) * merge**2
            + row % merge * merge
            + column % merge
            for row in range(rows * merge)
            for column in range(columns * merge)
        ]
    )


@dataclass(frozen=True)
class Mixture:
    """What the tokens of a picture become where a method merges some of them.

    Attributes:
        weights: of each of the N tokens in each of the k kept ones, (k, N).
        certain: which of the kept ones are so whichever way rounding goes, (k,): no token that may
            belong to one of them is about equally near to another.
    """

    weights: Doubles
    certain: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """Scores of a picture's N patches, higher kept first, ties to the lower index.

    Attributes:
        scores: (N,).
        slack: (N,), how far each may be off because rounding decides on which side of a bound
            something lies.
    """

    scores: Doubles
    slack: Doubles | float = 0.0

    def kept(self, budget: int) -> Ints:
        """The best, in raster order."""
        return np.sort(self._order()[:budget])

    def gap(self, budget: int) -> float:
        """Relative distance of the last patch kept from the first that is not, 1 where all are
        kept."""
        if budget == len(self.scores):
            return 1.0
        last, first_out = self.scores[self._order()[budget - 1 : budget + 1]]
        return float((last - first_out) / abs(last)) if last else 0.0

    def distance(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """How far the patches ``kept``, by the ``scores`` (k,) that a graph gave them, are from
        those that should be.

        The largest relative distance from the cut of a patch that one side alone kept; 0 where both
        kept the same, infinite where a number is not a patch's.
        """
        theirs = self.kept(len(kept))
        exchanged = np.setxor1d(kept, theirs)
        if not exchanged.size:
            return 0.0
        if not self.are_patches(exchanged):
            return float("inf")
        cut = float(self.scores[theirs].min())
        slack = np.broadcast_to(self.slack, self.scores.shape)
        off = np.abs(self.scores[exchanged] - cut) - slack[exchanged] - slack[theirs].max()
        return _relative(float(np.maximum(off, 0).max()), cut)

    def score_difference(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """Largest difference of a graph's ``scores`` (k,) of patches it kept, relative to the
        largest score over 1.

        NaN where one is NaN.
        """
        slack = np.broadcast_to(self.slack, self.scores.shape)
        off = np.abs(scores - self.scores[kept]) - slack[kept]
        return float(np.maximum(off, 0).max() / max(1.0, np.abs(self.scores).max()))

    def mixture(self, kept: Ints, scores: npt.NDArray[np.floating[Any]]) -> Mixture:
        """What a method that merges makes of the patches ``kept``, by the ``scores`` (k,) that they
        were given; of any other, the patches themselves."""
        return Mixture(np.eye(len(self.scores))[kept], np.ones(len(kept), dtype=bool))

    def are_patches(self, patches: Ints) -> bool:
        """Whether all are numbers of patches."""
        return bool(patches.min() >= 0 and patches.max() < len(self.scores))

    def _order(self) -> Ints:
        return np.argsort(-self.scores, kind="stable")


@dataclass(frozen=True)
class AmongPlaces(Ranking):
    """A ranking of the tokens that stages of a tower left, by their numbers in the whole picture.
    The ``scores`` of what was dropped are -inf.

    Attributes:
        inner: of those n, numbered among themselves.
        places: their numbers, ascending.
    """

    inner: Ranking = field(kw_only=True)
    places: Ints = field(kw_only=True)

    @classmethod
    def of(cls, inner: Ranking, places: Ints, tokens: int) -> "AmongPlaces":
        """Return a ranking by its tokens' ``places`` in a picture of so many ``tokens``."""
        scores = np.full(tokens, -np.inf)
        scores[places] = inner.scores
        return cls(scores, inner=inner, places=places)

    def kept(self, budget: int) -> Ints:
        """See `Ranking.kept`."""
        kept: Ints = self.places[self.inner.kept(budget)]
        return kept

    def gap(self, budget: int) -> float:
        """See `Ranking.gap`."""
        return self.inner.gap(budget)

    def distance(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """See `Ranking.distance`; 1 where one was dropped on the way, which no tie excuses."""
        if not self.are_patches(kept):
            return 1.0 if super().are_patches(kept) else float("inf")
        return self.inner.distance(np.searchsorted(self.places, kept), scores)

    def score_difference(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """See `Ranking.score_difference`."""
        return self.inner.score_difference(np.searchsorted(self.places, kept), scores)

    def are_patches(self, patches: Ints) -> bool:
        """Whether all are numbers of tokens that are left."""
        return bool(np.isin(patches, self.places).all())


# The mapping has the method's options, as the manifest has them.
Oracle = Callable[[Encoded, Mapping[str, Any]], Ranking]


def _relative(distance: float, to: float) -> float:
    return distance / abs(to) if to else float("inf" if distance else 0.0)
