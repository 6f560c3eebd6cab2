"""Knows what a pruning method is: what it reads of the tower, how it scores patches, how the best
are taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch

from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.options import Number, Option

Reads = Literal["cls_row", "received", "features", "projected"]
# What exists only when every token has been through the whole tower: nothing is saved there by
# selecting.
LATE: frozenset[Reads] = frozenset({"features", "projected"})
ATTENTION: frozenset[Reads] = frozenset({"cls_row", "received"})


@dataclass(frozen=True)
class Evidence:
    """What the vision graph computes for a method, only where the method lists it in ``reads``.

    Probabilities are those of the softmax over all tokens: columns are dropped afterwards and
    nothing is renormalised.

    Attributes:
        batch: B, pictures; each is selected from by itself.
        grid: rows and columns of patches, N in all; sizes known only at run time where resolution
            is dynamic. Where a tower's patches are merged before the decoder reads them, each
            square of them is one patch here, and attention is the mean over it
            (`VisionSpec.merge`). Patches are in raster order, whatever the tower's.
        places: numbers of the patches that are there, int64 (B, n), ascending, where stages of the
            tower dropped some; None where all are. With them N below is n, and probabilities are
            those of a softmax over what was there, of the rows that are left.
        cls_rows: attention that [CLS] pays to each patch, (B, heads, N), of the layers from
            `Pruner.first_layer` to the score layer, whose output the decoder reads.
        received: attention that the patches pay to each patch in the score layer, the mean over
            heads and over those who pay, (B, N); what [CLS] pays and is paid is left out. Of whole
            maps there is nothing: they are never made where a picture may have many patches.
        features: what the projector reads, (B, N, C).
        projected: what it makes of that, (B, N, hidden).
    """

    batch: int
    grid: tuple[int, int]
    places: torch.Tensor | None = None
    cls_rows: tuple[torch.Tensor, ...] = ()
    received: torch.Tensor | None = None
    features: torch.Tensor | None = None
    projected: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """N, or n of them."""
        return self.grid[0] * self.grid[1] if self.places is None else self.places.shape[1]


class Selection(NamedTuple):
    """Kept patches in raster order: ``indices`` int64 (B, k), ``scores`` float32 (B, k)."""

    indices: torch.Tensor
    scores: torch.Tensor


class Pruner:
    """A pruning method. A subclass is a module of this package and one line of its registry.

    A method scores patches (`score`), or selects them in a way of its own (`select`). One that
    merges what it drops into what it keeps, as VisionZip does, returns features beside the kept
    indices: `Selection` would get a field for them, (B, k, C), which the vision graph would project
    in place of the gathered rows, and ``nested`` would be False.

    Attributes:
        name: as its paper names it.
        title: for people.
        paper: where it is described, a link in Markdown; empty for what no paper needs to describe.
        keeps: which patches, to end the sentence "It keeps the 64 patches ...".
        reads: what `Evidence` must hold for it.
        nested: the tokens kept at a small budget are among those kept at a larger one, and a kept
            token's feature does not depend on which others are kept; then any smaller budget is
            served from one graph, by ``scores``.
        prunes: False for the method that keeps every token.
        accepts: its options, by name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    keeps: ClassVar[str]
    reads: ClassVar[frozenset[Reads]] = frozenset()
    nested: ClassVar[bool] = True
    prunes: ClassVar[bool] = True
    accepts: ClassVar[Mapping[str, Option]] = {}

    def __init__(self, options: Mapping[str, str]) -> None:
        if unknown := sorted(set(options) - set(self.accepts)):
            raise RequestError(
                f"pruner {self.name} has no option {unknown[0]!r}",
                advice=f"choose from {', '.join(sorted(self.accepts))}"
                if self.accepts
                else "leave --pruner-option out",
                setting="pruner_option",
            )
        # Those without a default are settled when the tower is known.
        self.options: dict[str, Number] = {
            name: option.default
            for name, option in self.accepts.items()
            if option.default is not None
        }
        for name, text in options.items():
            self.options[name] = self.accepts[name].read(f"{self.name} option {name}", text)

    def settle(self, vision: VisionSpec) -> None:
        """Fill in the options that depend on the tower; raises `RequestError` for a value that it
        has no room for."""

    def first_layer(self, score_layer: int) -> int:
        """The first of the encoder layers, counted from 0, whose [CLS] rows it reads; the score
        layer is the last."""
        return score_layer

    def default_budget(self, tokens: int) -> int:
        """Visual tokens kept of ``tokens`` by default: a quarter, at least one."""
        return max(1, round(tokens / 4))

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return one score a patch, float32 (B, N); higher is kept first."""
        raise NotImplementedError

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` best patches in raster order, all where a picture has fewer, to be
        traced into the graph; they are numbered among those that are there."""
        return take_best(self.score(evidence), budget)


def take_best(scores: torch.Tensor, budget: int) -> Selection:
    """Take the ``budget`` highest of ``scores`` (B, N), all where there are fewer, as
    `take_exactly` does."""
    return take_exactly(scores, torch.sym_min(budget, scores.shape[1]))


def take_exactly(scores: torch.Tensor, count: int) -> Selection:
    """Take the ``count`` highest of ``scores`` (B, N), at most N, and return them by ascending
    index; ``count`` may be known only at run time.

    ONNX has no Sort: a second TopK, over the indices, restores raster order. Ties go to the lower
    index where this is run as ONNX, whose TopK says so; torch leaves ties open.
    """
    _, best = torch.topk(scores, count, dim=1)
    indices, _ = torch.topk(best, count, dim=1, largest=False, sorted=True)
    return Selection(indices, torch.gather(scores, 1, indices))
