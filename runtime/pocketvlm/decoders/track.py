"""Knows where the segments of a sequence lie: after how many tokens, and at which positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pocketvlm.artifact.specs import CAUSAL, PROMPT
from pocketvlm.decoders.base import EmbeddingSegment, Segment
from pocketvlm.decoders.positions import Ints, Positions


class Mark(NamedTuple):
    """A place in a sequence: so many tokens lie before it, and the next one's position."""

    length: int
    position: int


class _Stretch(NamedTuple):
    """What lies between two marks; every token of a divisible one is a step of one position."""

    start: Mark
    end: Mark
    divisible: bool


@dataclass(frozen=True)
class Track:
    """The marks of a sequence; a longer or shorter one is another `Track`.

    Attributes:
        positions: how its tokens are numbered.
        attention: which of them see each other, `pocketvlm.artifact.specs.ATTENTIONS`. What a
            token that sees later ones has put into the cache holds for these alone: it is left
            out with them.
        first: the position of the first of them.
    """

    positions: Positions
    attention: str = CAUSAL
    first: int = 0
    _stretches: tuple[_Stretch, ...] = ()

    @property
    def end(self) -> Mark:
        """Behind the last token."""
        return self._stretches[-1].end if self._stretches else Mark(0, self.first)

    def extended(self, segments: Sequence[Segment]) -> tuple[list[Ints], Track]:
        """Positions of each further segment, int64 (axes, n), and the track with all of them.

        Raises:
            ArtifactError: see `Positions.picture`.
        """
        stretches, numbers = list(self._stretches), []
        mark = self.end
        for segment in segments:
            divisible = True
            if isinstance(segment, EmbeddingSegment):
                divisible = self.positions.pictures_divide and self.attention == CAUSAL
                planes, following = self.positions.picture(
                    mark.position, segment.grid, segment.kept, len(segment)
                )
            else:
                planes, following = self.positions.text(mark.position, len(segment))
            end = Mark(mark.length + len(segment), following)
            numbers.append(planes)
            if end == mark:
                continue  # an empty segment
            if divisible and stretches and stretches[-1].divisible:
                # One stretch, so that an answer of a thousand tokens does not make a thousand.
                stretches[-1] = stretches[-1]._replace(end=end)
            else:
                stretches.append(_Stretch(mark, end, divisible))
            mark = end
        return numbers, replace(self, _stretches=tuple(stretches))

    def cut(self, length: int) -> Track:
        """The track of the first ``length`` tokens, or of fewer where that lies inside a picture
        that cannot be divided: then the picture goes whole. Nothing is left of a prompt all of
        whose tokens see each other, however much is asked for: what follows would be a second one.
        """
        if self.attention == PROMPT:
            return replace(self, _stretches=())
        kept = [stretch for stretch in self._stretches if stretch.end.length <= length]
        if len(kept) < len(self._stretches):
            start, _, divisible = self._stretches[len(kept)]
            if divisible and length > start.length:
                end = Mark(length, start.position + length - start.length)
                kept.append(_Stretch(start, end, divisible))
        return replace(self, _stretches=tuple(kept))


def joined_planes(numbers: Sequence[Ints], axes: int) -> Ints:
    """``position_ids`` of segments in a row as graphs read them: int64 (1, n), or (axes, 1, n)
    where a token has several."""
    planes = np.concatenate(numbers, axis=1)
    return planes if axes == 1 else planes[:, None]
