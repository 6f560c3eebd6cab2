"""Knows what an oracle of a tower stage reads of the layers that transformers ran, and when two
choices are as good as each other."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Distance within which rounding decides which of two tokens is kept: the gate's bound of a tie.
TIE = 1e-6
_MOST = 8  # other choices that are followed up: each is a run of the tower


@dataclass(frozen=True)
class Layer:
    """One layer of one picture, of the n tokens that were there, which are p patches.

    Attributes:
        grid: rows and columns of the whole picture's tokens.
        places: numbers of the n tokens in it, ascending.
        before: 1 where there is a [CLS], which is in front of the patches.
        merge: edge of a token's square of patches; they follow one another.
        maps: float32 (heads, before + p, before + p): what each pays to each. Of layers before the
            one that tokens are ranked in there is the first row alone.
        keys, values: float32 (heads, before + p, d).
        hidden: what the layer handed on, patches alone, (p, C); nothing of the layers before.
    """

    grid: tuple[int, int]
    places: Ints
    before: int
    merge: int
    maps: npt.NDArray[np.float32]
    keys: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    hidden: Doubles

    def by_token(self, patches: npt.NDArray[np.floating]) -> Doubles:
        """Return the means over each token's patches: (p, ...) -> (n, ...)."""
        shape = (len(self.places), self.merge**2, *patches.shape[1:])
        means: Doubles = patches.astype(np.float64).reshape(shape).sum(axis=1) / self.merge**2
        return means


@dataclass(frozen=True)
class Choice:
    """Which of n tokens are kept.

    Attributes:
        kept: their numbers among the n, ascending.
        otherwise: what else may be kept, where rounding decides.
    """

    kept: Ints
    otherwise: tuple[Ints, ...] = ()


# The layers up to the one that tokens are ranked in, which is the last, and how many are kept. A
# way that adds up no scores is given the last alone.
Chooser = Callable[[Sequence[Layer], int], Choice]


def best(scores: Doubles, keep: int) -> Choice:
    """Keep the highest, ties to the lower index; otherwise each other that is as high as the
    last of them, in its place."""
    kept, others = cut(scores, keep, TIE * float(np.abs(scores).max()))
    return Choice(kept, distinct(kept, others))


def cut(scores: Doubles, keep: int, slack: float) -> tuple[Ints, list[Ints]]:
    """Return the ``keep`` highest, ascending, ties to the lower index; and the same with one that
    lies within ``slack`` of the last of them exchanged for another that does."""
    order = np.argsort(-scores, kind="stable")
    kept, dropped = order[:keep], order[keep:]
    near = np.abs(scores - scores[kept[-1]]) <= slack
    others = [
        np.sort(np.append(kept[kept != old], new))
        for old in kept[near[kept]][-_MOST:]
        for new in dropped[near[dropped]][:_MOST]
    ]
    return np.sort(kept), others


def distinct(kept: Ints, others: Iterable[Ints]) -> tuple[Ints, ...]:
    """Return what of other choices differs from what is ``kept``, each once, the first few."""
    seen = {tuple(kept): kept}
    for other in others:
        seen.setdefault(tuple(other), other)
    return tuple(seen.values())[1 : 1 + _MOST]
