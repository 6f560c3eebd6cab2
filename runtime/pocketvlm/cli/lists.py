"""Knows the values that options take beside click's own: paths, texts, comma-separated lists,
budgets, sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from pocketvlm.artifact.stages import Stage
from pocketvlm.files import user_path

_MOST_DIGITS = 9  # of an edge in pixels


class Comma(click.ParamType):
    """A comma-separated list as a tuple, each item converted by ``convert_item``."""

    def __init__(self, name: str, convert_item: Callable[[str], Any] = str) -> None:
        self.name = name
        self._convert_item = convert_item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split and convert; a wrong item, or an empty one, is a usage error."""
        if isinstance(value, tuple):
            return value
        items = [item.strip() for item in str(value).split(",")]
        item = ""
        try:
            if not all(items):
                raise ValueError
            return tuple(self._convert_item(item := each) for each in items)
        except ValueError:
            if item and "(" in self.name:  # the name lists what may be chosen
                self.fail(f"{item!r} is not for this option, which takes {self.name}", param, ctx)
            self.fail(f"{value!r} is not a comma-separated list of {self.name}", param, ctx)

    @staticmethod
    def without_all(values: Sequence[Any], flag: str) -> list[int]:
        """The requested numbers; empty for all. Both at once are a usage error."""
        if "all" not in values:
            return list(values)
        if len(values) > 1:
            raise click.UsageError(f"{flag} all cannot be combined with other values")
        return []


def refuse_auto() -> NoReturn:
    """Refuse what an earlier version took, with the reason why it went."""
    raise click.BadParameter(
        "--budget auto was removed: it answered no more questions than a fixed budget; give a "
        "number"
    )


def _budget(text: str) -> int:
    if text == "auto":
        refuse_auto()
    return int(text)


class _Budget(click.ParamType):
    """A whole number of visual tokens; ``auto`` is refused with the reason."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        try:
            return _budget(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)


class _Megabytes(click.FloatRange):
    """A number of megabytes above 0, without a unit."""

    name = "megabytes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of megabytes, such as 1000", param, ctx)
        return float(super().convert(value, param, ctx))


class _Path(click.Path):
    """A path, ``~`` expanded also where a shell does not do it, as in ``--image=~/photo.jpg``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """See `user_path`."""
        return user_path(os.fsdecode(super().convert(value, param, ctx)))


class _Text(click.ParamType):
    """A text; a shell that fills in a file's (``"$(cat FILE)"``) may put a byte order mark before
    it."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Without the mark."""
        return str(value).removeprefix("\ufeff")


def _is_edge(text: str) -> bool:
    """Whether a text is a number of pixels; one of more digits is not a picture's."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


class _Size(click.ParamType):
    """Two numbers of pixels as in ``448x644``, in the order in which they are written."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        first, _, second = str(value).partition("x")
        if not (_is_edge(first) and _is_edge(second)):
            self.fail(f"{value!r} is not two numbers of pixels, as in 448x644", param, ctx)
        return int(first), int(second)


class _Edges(_Size):
    """One or two numbers of pixels, as in ``224`` or ``168x224``; one is both edges of a square."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read it."""
        text = str(value)
        return super().convert((int(text),) * 2 if _is_edge(text) else value, param, ctx)


class _Stage(click.ParamType):
    """A layer before which tokens are dropped, and how many are kept, as in ``2:36``."""

    name = "stage"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Stage:
        """Read it, see `Stage.parse`."""
        try:
            return value if isinstance(value, Stage) else Stage.parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is not LAYER:KEEP or LAYER:KEEP:BY, as in 2:36", param, ctx)


class _Bias(click.ParamType):
    """A token id and a number, as in ``42:-5``."""

    name = "bias"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, float]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        token, _, bias = str(value).partition(":")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(f"{value!r} is not a token id and a number, as in 42:-5", param, ctx)


PATH = _Path()
MEGABYTES = _Megabytes(0, min_open=True)
TEXT = _Text()
SIZE = _Size()
EDGES = _Edges()
SIZES = Comma("sizes", lambda text: EDGES.convert(text, None, None))
STAGE = _Stage()
BIAS = _Bias()
NUMBERS = Comma("whole numbers", int)
NAMES = Comma("names")
BUDGET = _Budget()
BUDGETS = Comma("whole numbers", _budget)
# See `Comma.without_all`.
BUDGETS_OR_ALL = Comma(
    "whole numbers, or all", lambda text: text if text == "all" else _budget(text)
)
