"""Knows how tokens are numbered for a decoder's rotary embedding; a new way is a class and a line
in `POSITIONS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact.specs import POSITION_AXES
from pocketvlm.errors import ArtifactError

if TYPE_CHECKING:
    from pocketvlm.layouts import TokenGrid

Ints = npt.NDArray[np.int64]

_MROPE = """\
Each token has three positions: its time, its row and its column (M-RoPE). The positions of a run
are three planes in this order. A token of text has one number in all three, one more than the token
before, from 0 on. A picture that begins at position p has R rows and C columns of tokens before
pruning. Its token i (of `kept_indices`) has time p, row p + floor(i / C) and column p + i mod C.
Text after it continues at p + max(R, C), however many of its tokens were kept. Positions therefore
differ from the cache's length."""


class Positions(Protocol):
    """A way of numbering tokens.

    Attributes:
        name: what manifests call it, ``decoder.positions``.
        title: for people; empty where they need not know.
        recipe: how a client in another language numbers tokens, as Markdown; empty where they count
            on from 0.
        axes: numbers that each token has, `pocketvlm.artifact.specs.POSITION_AXES`.
        pictures_divide: whether a part of a picture is numbered as it is in the whole, so that a
            cache can be cut inside one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    recipe: ClassVar[str]
    axes: ClassVar[int]
    pictures_divide: ClassVar[bool]

    def text(self, start: int, count: int) -> tuple[Ints, int]:
        """Positions of so many tokens of text from ``start`` on, int64 (axes, count), and where
        the next token is."""

    def picture(
        self, start: int, grid: TokenGrid | None, kept: Ints | None, count: int
    ) -> tuple[Ints, int]:
        """Positions of the ``count`` kept tokens of a picture that begins at ``start``.

        Args:
            start: the position behind what comes before.
            grid: see `EmbeddingSegment`.
            kept: see `EmbeddingSegment`.
            count: kept tokens, n.

        Returns:
            int64 (axes, n), and where the next token is.

        Raises:
            ArtifactError: the segment does not say what these positions are made of.
        """


class Contiguous:
    """0, 1, 2, ...: a picture's tokens are numbered as text is, whatever was dropped."""

    name: ClassVar[str] = "contiguous"
    title: ClassVar[str] = ""
    recipe: ClassVar[str] = ""
    axes: ClassVar[int] = POSITION_AXES[name]
    pictures_divide: ClassVar[bool] = True

    def text(self, start: int, count: int) -> tuple[Ints, int]:
        """See `Positions.text`."""
        return np.arange(start, start + count, dtype=np.int64)[None], start + count

    def picture(
        self, start: int, grid: TokenGrid | None, kept: Ints | None, count: int
    ) -> tuple[Ints, int]:
        """See `Positions.picture`; neither grid nor kept numbers are read."""
        return self.text(start, count)


class MRope:
    """Time, row and column (Qwen2-VL, arXiv 2409.12191, section 2.1).

    Text has the same number in all three. A picture that begins at p has p as its time, p + row and
    p + column; what follows continues at p + max(rows, columns). Pruning changes none of that: kept
    tokens stay where they are in the whole picture, and text continues where that would have ended.
    """

    name: ClassVar[str] = "mrope"
    title: ClassVar[str] = "time, row and column of each token (M-RoPE)"
    recipe: ClassVar[str] = _MROPE
    axes: ClassVar[int] = POSITION_AXES[name]
    pictures_divide: ClassVar[bool] = False

    def text(self, start: int, count: int) -> tuple[Ints, int]:
        """See `Positions.text`."""
        numbers = np.arange(start, start + count, dtype=np.int64)
        return np.tile(numbers, (self.axes, 1)), start + count

    def picture(
        self, start: int, grid: TokenGrid | None, kept: Ints | None, count: int
    ) -> tuple[Ints, int]:
        """See `Positions.picture`."""
        if grid is None or kept is None:
            raise ArtifactError(
                f"a picture of {count} tokens comes without its grid and the numbers of its tokens",
                expected="both, as M-RoPE positions are made of rows and columns",
                advice="export it again with a layout that gives one grid a picture",
            )
        _check_kept(grid, kept, count)
        rows, columns = np.divmod(kept.astype(np.int64), grid.columns)
        times = np.zeros(count, dtype=np.int64)
        return start + np.stack([times, rows, columns]), start + max(grid.rows, grid.columns)


def _check_kept(grid: TokenGrid, kept: Ints, count: int) -> None:
    """Refuse numbers that are not ``count`` different ones of the grid, in raster order.

    The order matters: llama.cpp takes it from the positions, ONNX Runtime from the cache.
    """
    ascending = len(kept) < 2 or bool((np.diff(kept) > 0).all())
    within = len(kept) == 0 or bool(kept.min() >= 0 and kept.max() < grid.tokens)
    if len(kept) != count or not ascending or not within:
        listed = ", ".join(map(str, kept[:8])) + (", ..." if len(kept) > 8 else "")
        raise ArtifactError(
            f"the kept tokens of a picture of {grid.rows}x{grid.columns} are {len(kept)}: {listed}",
            expected=f"{count} different ones of 0 to {grid.tokens - 1}, ascending",
            advice="the vision graph is not one of ours, export it again",
        )


_ALL: tuple[Positions, ...] = (Contiguous(), MRope())
POSITIONS: dict[str, Positions] = {each.name: each for each in _ALL}


def positions_named(name: str) -> Positions:
    """One of `POSITIONS`; raises `ArtifactError` for a name that this runtime does not have."""
    if name not in POSITIONS:
        raise ArtifactError(
            f"positions {name!r} are unknown to this runtime, which has {', '.join(POSITIONS)}",
            advice="update pocketvlm",
        )
    return POSITIONS[name]
