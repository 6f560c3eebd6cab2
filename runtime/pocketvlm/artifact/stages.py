"""Knows what a stage is: a layer before which visual tokens are dropped, inside the vision tower or
inside the decoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from pocketvlm.errors import RequestError
from pocketvlm.limits import settle_numbers, whole

# A stage of a decoder ``by`` this ranks by scores that are an input of the graph, ``visual_scores``
# (batch, tokens); all others find their own.
GIVEN: Final = "given"


@dataclass(frozen=True)
class Stage:
    """Visual tokens are dropped before ``layer``, and layers from there on read ``keep`` of them.

    Whether the layers are the tower's or the decoder's follows from the field that holds it. What
    is kept of one stage is ranked again by the next, among what is left.

    Attributes:
        layer: counted from 0, 1 or more: tokens are ranked by what the one before it does.
        keep: visual tokens that are kept, per picture in the decoder and per tile in the tower; 0
            where all of them leave.
        by: what ranks them, a name of the exporter's registries ``tower_stages`` and
            ``decoder_stages``; empty in a request for the default there.
    """

    layer: int
    keep: int
    by: str = ""

    def __post_init__(self) -> None:
        settle_numbers(self)
        whole(self.layer, "stage_layer")
        whole(self.keep, "stage_keep", least=0)
        if not isinstance(self.by, str):
            raise RequestError(
                f"a stage's by is of type {type(self.by).__name__}",
                expected="the name of a way to rank tokens",
                setting="stage_by",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``LAYER:KEEP`` or ``LAYER:KEEP:BY``; raises `ValueError` for anything else."""
        layer, colon, rest = text.partition(":")
        keep, named, by = rest.partition(":")
        if not (colon and layer.isdecimal() and keep.isdecimal()) or (named and not by):
            raise ValueError(text)
        return cls(int(layer), int(keep), by)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.layer}:{self.keep}" + (f":{self.by}" if self.by else "")


def in_order(stages: Sequence[Stage]) -> bool:
    """Whether each stage lies in a later layer than the one before it, and keeps fewer tokens."""
    return all(
        one.layer < two.layer and one.keep > two.keep for one, two in itertools.pairwise(stages)
    )


def stamp(stages: Sequence[Stage]) -> str:
    """Return what the metadata of a graph with these stages says, see `metadata.STAGES`."""
    return ",".join(map(str, stages))
