"""Knows what a pruning method is: what it reads of the tower, how it scores patches, how the best
are taken."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch

from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.options import Choice, Option, Value

Reads = Literal["cls_row", "received", "keys", "features", "projected", "text"]
# What exists only when every token has been through the whole tower: nothing is saved there by
# selecting.
LATE: frozenset[Reads] = frozenset({"features", "projected"})
ATTENTION: frozenset[Reads] = frozenset({"cls_row", "received"})
# A method that reads the prompt selects in a separate graph, which has these and nothing else. The
# tower's work does not depend on the question, and is done once for all questions.
TEXT: Reads = "text"
WITH_TEXT: frozenset[Reads] = frozenset({"projected", "text"})


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
        received: attention of the patches to each patch in the score layer, the mean over heads and
            patches, (B, N); [CLS] is left out. Of whole maps there is nothing: they are never made
            where a picture may have many patches.
        keys: of the score layer's attention, as its queries are compared with them and so turned by
            their places where the tower turns them. The mean over heads, (B, N, d).
        features: what the projector reads, (B, N, C).
        projected: what it makes of that, (B, N, hidden).
        text: input embeddings of the question's tokens, (1, T, hidden), without template; a row of
            zeros where it has none. Where it is read, ``grid`` is (1, N) if resolution is dynamic.
    """

    batch: int
    grid: tuple[int, int]
    places: torch.Tensor | None = None
    cls_rows: tuple[torch.Tensor, ...] = ()
    received: torch.Tensor | None = None
    keys: torch.Tensor | None = None
    features: torch.Tensor | None = None
    projected: torch.Tensor | None = None
    text: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """N, or n of them."""
        return self.grid[0] * self.grid[1] if self.places is None else self.places.shape[1]


class Selection(NamedTuple):
    """Kept patches in raster order.

    Attributes:
        indices: int64 (B, k).
        scores: float32 (B, k).
        features: of a method that ``merges``, what stands at each kept place instead of the patch
            that was there. Of one that reads ``projected`` they are as the decoder reads them, (B,
            k, hidden). Of any other they are as the projector does, (B, k, C), which then projects
            only them. None where the patches are kept as they are.
    """

    indices: torch.Tensor
    scores: torch.Tensor
    features: torch.Tensor | None = None


class Pruner:
    """A pruning method. A subclass is a module of this package and one line of its registry.

    A method scores patches (`score`), or selects them in a way of its own (`select`). One that
    merges what it drops into what it keeps gives `Selection.features` beside the kept indices. It
    says so (``merges``), reads ``features`` or ``projected``, and is not ``nested``.

    Attributes:
        name: as its paper names it.
        title: for people.
        paper: where it is described, a link in Markdown; empty for what no paper needs to describe.
        keeps: which patches, to end the sentence "It keeps the 64 patches ...".
        reads: what `Evidence` must hold for it, once it is settled; before that, and of the class,
            what it reads of every tower. With `TEXT` nothing beyond `WITH_TEXT`.
        nested: the tokens kept at a small budget are among those kept at a larger one, and a kept
            token's feature does not depend on which others are kept. One graph then serves any
            smaller budget, by ``scores``.
        merges: its selections may have `Selection.features`; its oracle then says how patches are
            mixed (`pocketvlm_export.verification.oracles.base.Ranking.mixture`).
        prunes: False for the method that keeps every token.
        accepts: its options, by name.
        oracle: of a method from another package, its `pocketvlm_export.verification.oracles.Oracle`
            as a static method. Those of this one have a module there instead.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    keeps: ClassVar[str]
    reads: frozenset[Reads] = frozenset()
    nested: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    prunes: ClassVar[bool] = True
    accepts: ClassVar[Mapping[str, Option | Choice]] = {}
    oracle: ClassVar[Callable[..., Any] | None] = None

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
        self.options: dict[str, Value] = {
            name: option.default
            for name, option in self.accepts.items()
            if option.default is not None
        }
        for name, text in options.items():
            self.options[name] = self.accepts[name].read(f"{self.name} option {name}", text)

    def settle(self, vision: VisionSpec) -> None:
        """Fill in the options that depend on the tower, and what it ``reads`` where that follows
        from them. Raises `RequestError` for a value that it has no room for."""

    def number(self, name: str) -> float:
        """Return an option that is a number."""
        return float(self.options[name])

    def first_layer(self, score_layer: int) -> int:
        """The first of the encoder layers, counted from 0, whose [CLS] rows it reads; the score
        layer is the last."""
        return score_layer

    def default_budget(self, tokens: int) -> int:
        """Visual tokens kept of ``tokens`` by default: a quarter, at least one."""
        return max(1, round(tokens / 4))

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return one score per patch, float32 (B, N); higher is kept first."""
        raise NotImplementedError

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return the ``budget`` best patches in raster order, all where a picture has fewer, to be
        traced into the graph. They are numbered among those that are there."""
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


def rows_of(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the given rows of ``tokens`` (B, n, C), by indices (B, k): (B, k, C)."""
    return torch.gather(tokens, 1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
