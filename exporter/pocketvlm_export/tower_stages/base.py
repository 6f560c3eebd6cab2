"""Knows what a way to choose the tokens that are kept in a vision tower is: what it reads of a
layer, and how the best are taken."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pocketvlm_export.pruning.base import take_exactly

RowReads = Literal["cls_row", "received", "keys", "values", "hidden"]


@dataclass(frozen=True)
class Seen:
    """What a stage sees of the layer that tokens are ranked in, only where its way lists it.

    Where a token is a square of patches (`VisionSpec.merge`), attention, keys and values are means
    over the square, and ``hidden`` has its patches side by side.

    Attributes:
        batch: B, pictures; each is chosen from by itself.
        grid: rows and columns of the whole picture's tokens.
        tokens: n, those that are there, in raster order.
        places: their numbers in the whole picture, int64 (B, n); None where all are there.
        cls_row: attention that [CLS] pays to each, (B, heads, n), of a softmax over all that is
            there.
        received: attention that they pay to each, the mean over heads and those who pay, (B, n).
        keys: the mean of each over heads, (B, n, d).
        values: of each, (B, heads, n, d).
        cls_value: of [CLS], (B, heads, d).
        hidden: what the layer hands on, (B, n, C).
        carried: what `Criterion.carry` returned in the layer before, of those that are there,
            (B, n); None in the first layer.
    """

    batch: int
    grid: tuple[int, int]
    tokens: int
    places: torch.Tensor | None = None
    cls_row: torch.Tensor | None = None
    received: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None
    cls_value: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    carried: torch.Tensor | None = None


class Criterion:
    """A way to choose. A subclass is a module of this package and one line of its registry.

    It scores tokens (`score`), or chooses them in a way of its own (`choose`).

    Attributes:
        name: as ``--tower-stage`` has it.
        keeps: which tokens are kept, to end the sentence "the tower keeps those ...".
        paper: where it is described, a link in Markdown; empty where none is needed.
        reads: what `Seen` must hold for it.
        watches: what `Seen` must hold in every layer up to that of its last stage; empty unless it
            adds up scores from layer to layer.
        needs_cls: it is for towers with a [CLS] token.
    """

    name: ClassVar[str]
    keeps: ClassVar[str]
    paper: ClassVar[str] = ""
    reads: ClassVar[frozenset[RowReads]] = frozenset()
    watches: ClassVar[frozenset[RowReads]] = frozenset()
    needs_cls: ClassVar[bool] = False

    @property
    def reads_output(self) -> bool:
        """Whether it reads what the layer hands on: then that is computed for all tokens."""
        return "hidden" in self.reads

    def carry(self, seen: Seen) -> torch.Tensor:
        """Return what the next layer's `Seen.carried` is to be, (B, n)."""
        raise NotImplementedError

    def score(self, seen: Seen) -> torch.Tensor:
        """Return one score per token, float32 (B, n); those with the highest are kept."""
        raise NotImplementedError

    def choose(self, seen: Seen, keep: int) -> torch.Tensor:
        """Return the ``keep`` tokens that are kept, at most n, to be traced into the graph: int64
        numbers (B, keep) among those that are there, ascending."""
        return take_exactly(self.score(seen), keep).indices
