"""Knows what a pruning method is: what it reads of the tower, how it scores patches, how the best are taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch

from pocketvlm import PocketVLMError

Reads = Literal["cls_row"]


@dataclass(frozen=True)
class Evidence:
    """What the vision graph computes for a method, only where the method says it reads it.

    Attributes:
        cls_row: softmaxed attention that [CLS] pays to each patch in the layer whose output the decoder sees,
            (batch, heads, patches); the [CLS] column was dropped after the softmax, without renormalising.
    """

    cls_row: torch.Tensor | None = None


class Selection(NamedTuple):
    """Kept patches in raster order: ``indices`` int64 (batch, k), ``scores`` float32 (batch, k)."""

    indices: torch.Tensor
    scores: torch.Tensor


class Pruner:
    """A pruning method. A subclass is a module of this package and one line of its registry.

    Attributes:
        name: as its paper names it.
        reads: which fields of `Evidence` it needs.
        nested: the tokens kept at a small budget are among those kept at a larger one, and a kept token's feature does
            not depend on which others are kept; then any smaller budget is served from one graph.
        prunes: False for the method that keeps every token.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[Reads]]
    nested: ClassVar[bool]
    prunes: ClassVar[bool] = True

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = dict(options)
        if unknown := sorted(set(options) - self.known_options()):
            known = ", ".join(sorted(self.known_options())) or "none"
            raise PocketVLMError(f"pruner {self.name} has no option {unknown[0]!r}: its options are: {known}")

    @classmethod
    def known_options(cls) -> set[str]:
        """Names accepted by ``--pruner-option``."""
        return set()

    def default_budget(self, tokens: int) -> int:
        """Visual tokens kept of ``tokens`` where nobody says how many: a quarter, at least one."""
        return max(1, round(tokens / 4))

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return one score a patch, float32 (batch, patches); higher is kept first."""
        raise NotImplementedError

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` best patches in raster order, to be traced into the graph."""
        return take_best(self.score(evidence), budget)


def take_best(scores: torch.Tensor, budget: int) -> Selection:
    """Take the ``budget`` highest of ``scores`` (batch, patches) and return them by ascending index.

    ONNX has no Sort: a second TopK, over the indices, restores raster order. Ties go to the lower index where this is
    run as ONNX, whose TopK says so; torch leaves ties open.
    """
    _, best = torch.topk(scores, budget, dim=1)
    indices, _ = torch.topk(best, budget, dim=1, largest=False, sorted=True)
    return Selection(indices, torch.gather(scores, 1, indices))
