"""CDPruner in OpenVINO's form (arXiv 2506.10967): its greedy picks replayed, and what another order
of picking would have given away."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm_export.verification.oracles.base import Doubles, Encoded, Ints, Ranking

_EPS = 1e-6
_ROUNDING = 1e-6  # of a cosine in float32


@dataclass(frozen=True)
class MapPicks(Ranking):
    """Picks, in the order of their scores 1 - pick / N, and the kernel that they were made by.

    Whether a graph's picks are right is asked of each by itself, given those before it: of two
    patches that add about as much either may be picked, and all later picks may then be others.

    Attributes:
        kernel: (N, N).
        rounding: how far its entries may be off in float32.
    """

    kernel: Doubles = field(kw_only=True)
    rounding: float = field(kw_only=True)

    def gap(self, budget: int) -> float:
        """The smallest of the picks' own: how much less the best patch that was not picked adds,
        relatively."""
        smallest = 1.0
        for pick, gains in _replayed(self.kernel, self._order()[:budget]):
            others = np.delete(gains, pick)
            second = others.max() if others.size else -np.inf
            if np.isfinite(second):
                part = (gains[pick] - second) / gains[pick] if gains[pick] > 0 else 0.0
                smallest = min(smallest, part)
        return float(smallest)

    def distance(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """The largest part, over all picks, by which a patch not yet picked would have added more,
        beyond what rounding may make of it."""
        if not self.are_patches(kept):
            return float("inf")
        worst = 0.0
        order = kept[np.argsort(-scores, kind="stable")]
        for number, (pick, gains) in enumerate(_replayed(self.kernel, order)):
            best = int(gains.argmax())
            if gains[pick] == -np.inf:  # again
                return float("inf")
            if best == pick:
                continue
            slack = self._slack(order[:number], np.array([best, pick]))
            lost = max(gains[best] - gains[pick] - slack, 0.0)
            worst = max(worst, lost / gains[best] if lost else 0.0)
        return float(worst)

    def score_difference(self, kept: Ints, scores: npt.NDArray[np.float32]) -> float:
        """Of the scores alone: they are always the same, whichever patches bear them."""
        expected = 1 - np.arange(len(kept)) / len(self.scores)
        return float(np.abs(np.sort(scores)[::-1] - expected).max())

    def _slack(self, before: Ints, patches: Ints) -> float:
        """How far the gains of ``patches`` may be off where each entry of the kernel is.

        A gain is x^T K x with -1 for the patch itself and, for those picked ``before``, how it is
        best put together of them: it is off by |x|_1^2 times as much at most.
        """
        inner = self.kernel[np.ix_(before, before)] + _EPS * np.eye(len(before))
        made_of = np.linalg.solve(inner, self.kernel[np.ix_(before, patches)])
        return float((self.rounding * (1 + np.abs(made_of).sum(axis=0)) ** 2).sum())


def rank(encoded: Encoded, options: Mapping[str, Any]) -> Ranking:
    """Pick all patches, one after the other: the one that adds most to the determinant of those
    before."""
    assert encoded.text is not None
    weight = float(options["relevance_weight"])
    units = np.array([_unit(row) for row in encoded.projected])
    mean = _unit(encoded.text.mean(axis=0)) if len(encoded.text) else np.zeros(units.shape[1])
    cosines = units @ mean
    spread = float(cosines.max() - cosines.min())
    relevance = (cosines - cosines.min()) / (spread + _EPS)
    alike = units @ units.T
    kernel = (1 - weight) * alike + weight * alike * np.outer(relevance, relevance)
    tokens = len(kernel)
    picked = [pick for pick, _ in _replayed(kernel, np.empty(0, np.int64), tokens)]
    scores = np.empty(tokens)
    scores[picked] = 1 - np.arange(tokens) / tokens
    # Both ends of the range of relevance are off as any cosine is.
    rounding = _ROUNDING * (1 + weight * 4 / (spread + _EPS))
    return MapPicks(scores, kernel=kernel, rounding=rounding)


def _unit(row: Doubles) -> Doubles:
    return np.asarray(row / np.sqrt(row @ row + _EPS))


def _replayed(
    kernel: Doubles, order: Ints, count: int | None = None
) -> Iterator[tuple[int, Doubles]]:
    """Yield each pick with what every patch would add, -inf where it was picked: the picks of
    ``order``, or the best ones where ``count`` is given."""
    gains, left = kernel.diagonal().copy(), kernel.copy()
    for number in range(len(order) if count is None else count):
        pick = int(gains.argmax() if count is not None else order[number])
        yield pick, gains
        # What is left of every pair once this patch is known: a step of Gauss's elimination.
        row = left[pick] / np.sqrt(max(gains[pick], 0.0) + _EPS)
        left = left - np.outer(row, row)
        gains = gains - row**2
        gains[pick] = -np.inf
