"""Knows how much work a chat template has done, and stops it. Every value is charged by its size
before it is made."""

from __future__ import annotations

import time
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sized,
    ValuesView,
)
from contextvars import ContextVar
from typing import Any, TypeVar

from jinja2 import Undefined
from jinja2.sandbox import SecurityError
from jinja2.utils import Namespace

T = TypeVar("T")

ITEM = 16  # units of an item in a container or a pass of a loop; a character is one unit
CALL = 64  # units of a call
_UNITS = 4_000_000  # of a template by itself: 4 MB of text, or 100,000 passes and more
_UNITS_PER_INPUT = 64  # more of them for each unit of the conversation
_UNITS_PER_PAIR = 64  # and of two messages: some templates look at all others for each message
_MOST_UNITS = 256_000_000
_CHARACTERS = 1 << 17  # of the prompt; published templates write some thousands of their own
_CHARACTERS_PER_INPUT = 8
_SECONDS = 20.0  # of one rendering, which takes milliseconds; for what the units do not see
_MAX_BITS = 4096  # of an integer

_CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


class Work:
    """What one rendering may do.

    Args:
        given: the size of what it is given, see `size_of`.
        messages: how many there are.
    """

    def __init__(self, given: int = 0, messages: int = 0) -> None:
        units = _UNITS + _UNITS_PER_INPUT * given + _UNITS_PER_PAIR * messages**2
        self._left = min(units, _MOST_UNITS)
        self._characters = _CHARACTERS + _CHARACTERS_PER_INPUT * given
        self._until = time.monotonic() + _SECONDS

    def charge(self, units: int) -> None:
        """Raise `SecurityError` where so many units more are too many."""
        self._left -= units
        if self._left < 0:
            raise SecurityError("it takes too many steps, or makes too much text")
        if time.monotonic() > self._until:
            raise SecurityError(f"it takes more than {_SECONDS:.0f} s")

    def write(self, text: str) -> None:
        """Charge a part of the prompt."""
        self._characters -= len(text)
        if self._characters < 0:
            raise SecurityError("it writes too many characters")

    def charge_value(self, value: Any, times: int = 1) -> None:
        """Charge all that a value holds, ``times`` times."""
        size = size_of(value, self._left)
        self.charge(size * max(times, 0))

    def charge_text(self, value: Any) -> None:
        """Charge what a value takes as text."""
        self.charge(size_of(value, self._left, as_text=True))

    def integer(self, value: Any) -> Any:
        """A number as it is; raises `SecurityError` for an integer of thousands of digits."""
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise SecurityError("a number is too large")
        return value

    def iterate(self, value: Any) -> Any:
        """What a loop or a filter goes through, its items charged."""
        if isinstance(value, Sized):
            self.charge(ITEM * len(value))
            return value
        return self._counted(value) if isinstance(value, Iterable) else value

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.charge(ITEM)
            yield value


_WORK: ContextVar[Work] = ContextVar("work")


def work() -> Work:
    """That of the rendering under way in this thread."""
    return _WORK.get()


def working(own: Work, task: Callable[[], T]) -> T:
    """Run a task with work of its own."""
    token = _WORK.set(own)
    try:
        return task()
    finally:
        _WORK.reset(token)


def size_of(value: Any, most: int | None = None, *, as_text: bool = False) -> int:
    """Units that a value takes with all that it holds, counted as often as it holds it; at least
    ``most`` where it is beyond that.

    Raises:
        SecurityError: it is to be text, and holds a namespace, which may hold itself.
    """
    if isinstance(value, str):
        return len(value) + 1
    units, rest = 0, [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            units += len(item) + 1
        elif isinstance(item, int):
            units += 1 + item.bit_length() // 3
        elif isinstance(item, (Mapping, *_CONTAINERS)):
            units += ITEM * (1 + len(item))
        elif isinstance(item, Namespace) and as_text:
            raise SecurityError("a namespace is not a string")
        else:
            units += ITEM
            continue
        if most is not None and units > most:
            break
        if isinstance(item, Mapping):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, _CONTAINERS):
            rest += item
    return units


def charge_product(left: Any, right: Any) -> None:
    """Charge ``left * right`` before it is made."""
    for times, value in ((right, left), (left, right)):
        if isinstance(times, int) and not isinstance(value, (int, float, Undefined)):
            work().charge_value(value, int(times))
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def check_power(left: Any, right: Any) -> None:
    """Refuse ``left ** right`` where it has thousands of digits."""
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)


def charge_replacement(text: str, old: str, new: str, count: int | None = None) -> None:
    """Charge ``text.replace(old, new, count)`` before it is made."""
    places = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    work().charge(len(text) + places * max(len(new) - len(old), 0) + 1)


def charge_join(separator: str, items: list[Any]) -> None:
    """Charge ``separator.join(items)`` before it is made."""
    work().charge_text(items)
    work().charge(len(separator) * len(items))


def charge_indent(text: str, width: int | str) -> None:
    """Charge an indented text before it is made."""
    work().charge((text.count("\n") + 2) * (len(width) if isinstance(width, str) else abs(width)))


def _check_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise SecurityError("the result is too large")
