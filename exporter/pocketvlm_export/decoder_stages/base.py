"""Knows what a way to choose at a stage of the decoder is: what it reads between two layers, and
the scores that it gives."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch


class Attention(Protocol):
    """What tokens of a run attend to in the layer that has just run, without the cache before it: a
    mean over heads."""

    def of_last(self) -> torch.Tensor:
        """What the last token pays, (B, n)."""

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """What tokens pay by their places among the n, (B, r): (B, r, n), 0 for later ones."""


@dataclass(frozen=True)
class StageEvidence:
    """What a decoder knows between two layers of the n tokens of a run that have come this far.

    Attributes:
        tokens: their numbers in the run, int64 (B, n), ascending.
        attention: of the layer before the stage.
        prepared: what `StageRanking.prepare` has made of the whole run.
        given: scores that the graph was given for them, (B, n); None where it has no such input.
    """

    tokens: torch.Tensor
    attention: Attention
    prepared: tuple[torch.Tensor, ...] = ()
    given: torch.Tensor | None = None


class StageRanking:
    """A way to choose. A subclass is a module of this package and one line of its registry.

    Attributes:
        title: for people.
        paper: where it is described, a link in Markdown; empty for what no paper needs to describe.
        keeps: which tokens are kept, to end the sentence "... read 64 tokens per picture, ...".
        tag: under which the Hub lists an artifact with it.
        ranks: whether it scores tokens; one that does not drops all of them.
    """

    title: ClassVar[str]
    paper: ClassVar[str] = ""
    keeps: ClassVar[str]
    tag: ClassVar[str]
    ranks: ClassVar[bool] = True

    def prepare(
        self, inputs_embeds: torch.Tensor, picture_ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return what follows from a whole run alone, (B, S, hidden) and (B, S); it is asked once,
        however many stages there are."""
        return ()

    def scores(self, evidence: StageEvidence) -> torch.Tensor:
        """Return the scores of the n tokens, (B, n), higher kept first; those of text are not
        read."""
        raise NotImplementedError
