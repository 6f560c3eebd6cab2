"""CDPruner in OpenVINO's form (arXiv 2506.10967): its greedy picks replayed, and what another order
of picking would have given away."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm_export.verification.oracles.base import Doubles, Encoded, Ints, Ranking
from pocketvlm_export.verification.oracles.greedy import ROUNDING, InOrder, scores_of

_EPS = 1e-6
_NEAR = 0.1  # gains that differ by less, relatively, are asked how far rounding may move them


@dataclass(frozen=True)
class MapPicks(InOrder):
    """Picks and the kernel that they were made by.

    Each is asked about by itself, as `greedy.Picks` does. But how far rounding may move a gain
    costs a system of equations, and is worked out only for two patches that add about as much.

    Attributes:
        kernel: (N, N).
        rounding: how far its entries may be off in float32.
    """

    kernel: Doubles = field(kw_only=True)
    rounding: float = field(kw_only=True)

    def gap(self, budget: int) -> float:
        """The smallest of the picks' own: how much less the best patch that was not picked adds,
        relatively, beyond what rounding may make of it; 1 where all are kept."""
        smallest, order = 1.0, self._order()[:budget]
        if budget == len(self.scores):
            return smallest
        for number, (pick, gains) in enumerate(_replayed(self.kernel, order)):
            rest = gains.copy()
            rest[pick] = -np.inf
            second = int(rest.argmax())
            off = float(gains[pick] - gains[second])
            if off < _NEAR * gains[pick]:
                off -= self._slack(order[:number], np.array([pick, second]))
            smallest = min(smallest, max(off, 0.0) / gains[pick] if gains[pick] > 0 else 0.0)
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
    picked = [pick for pick, _ in _replayed(kernel, np.empty(0, np.int64), len(kernel))]
    # Both ends of the range of relevance are off as any cosine is.
    rounding = ROUNDING * (1 + weight * 4 / (spread + _EPS))
    return MapPicks(scores_of(np.array(picked)), kernel=kernel, rounding=rounding)


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
