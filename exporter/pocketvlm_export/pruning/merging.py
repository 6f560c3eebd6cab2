"""Knows how patches that are dropped are merged into patches that are kept: which goes where, and
what becomes of both."""

import torch

from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import LATE, TEXT, Evidence, Pruner, Selection, rows_of
from pocketvlm_export.pruning.cosines import units


class _MergesDropped(Pruner):
    """What `merging` puts before a method."""

    nested = False
    merges = True

    def settle(self, vision: VisionSpec) -> None:
        """See `Pruner.settle`; what is averaged is read too."""
        super().settle(vision)
        if not self.reads & LATE:
            self.reads = self.reads | {"features"}

    def select(self, evidence: Evidence, budget: int) -> Selection:
        """Return what the method selects, with the means in place of what it keeps."""
        kept = super().select(evidence, budget)
        tokens = evidence.features if evidence.projected is None else evidence.projected
        assert tokens is not None
        return kept._replace(features=average_dropped(tokens, kept.indices))


def merging(method: type[Pruner]) -> type[Pruner]:
    """Return a method that drops what ``method`` drops, and averages each dropped patch into the
    kept one most like it.

    Likeness is the cosine of what is averaged: the projector's input, or, if the method reads
    ``projected``, the decoder's input, all of which is computed then. A kept patch and the n that
    go to it become their mean, each counting as 1 / (n + 1). Which patches are kept, and by which
    scores, stays the method's own affair. The features depend on all that is kept, so that no
    smaller budget can be cut from it. Its name, title and options are those of ``method``.

    Raises:
        RequestError: ``method`` drops nothing, merges in a way of its own, or reads the prompt.
    """
    why = ""
    if not method.prunes:
        why = "drops nothing"
    elif method.merges:
        why = "merges what it drops in a way of its own"
    elif TEXT in method.reads:  # tokens are encoded once for all questions, and selected by each
        why = "selects by the question, in a graph that gives tokens as they are"
    if why:
        raise RequestError(
            f"pruner {method.name} {why}",
            advice="leave --merge-dropped out",
            setting="merge_dropped",
        )
    return type(f"Merging{method.__name__}", (_MergesDropped, method), {})


def average_dropped(tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the mean of each kept token and of the dropped ones that are more like it than any
    other kept one is: tokens (B, N, C), kept int64 (B, k) -> (B, k, C)."""
    goes = going(likeness(tokens, kept), ~among(kept, tokens.shape[1]))
    sums = rows_of(tokens, kept) + torch.matmul(goes, tokens)
    return sums / (1 + goes.sum(dim=2, keepdim=True))


def likeness(vectors: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each kept vector with each: (B, N, C), int64 (B, k) -> (B, k, N); 0 with
    a vector of zeros."""
    unit = units(vectors)
    return torch.matmul(rows_of(unit, kept), unit.transpose(1, 2))


def going(alike: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Return which token goes to which kept one, 1 where it does: of how much ``alike`` they are,
    (B, k, N), and ``which`` go at all, bool (B, N) -> float32 (B, k, N).

    Each goes to one alone, of equals to the first.
    """
    nearest = alike.argmax(dim=1, keepdim=True)  # (B, 1, N)
    places = torch.arange(alike.shape[1]).unsqueeze(-1)  # (k, 1)
    return ((places == nearest) & which.unsqueeze(1)).to(torch.float32)


def among(indices: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return which of so many ``tokens`` are listed: int64 (B, k) -> bool (B, tokens)."""
    return (indices.unsqueeze(-1) == torch.arange(tokens)).any(dim=1)
