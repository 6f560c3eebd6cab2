"""Knows how protobuf's wire format is walked: fields of a message, within their bounds, nothing
copied.

The format: https://protobuf.dev/programming-guides/encoding. A graph's file may hold its weights,
so it is mapped and stepped over, where a library would read all of it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10  # bytes


class Span(NamedTuple):
    """A stretch of the data that holds a message or a text."""

    start: int
    end: int


def fields(data: mmap.mmap | bytes, span: Span) -> Iterator[tuple[int, int | Span]]:
    """(number, value) of each field of the message in ``span``; a value is an unsigned number, or
    where its bytes are.

    Raises:
        ValueError: no message.
    """
    at = span.start
    while at < span.end:
        tag, at = _varint(data, at, span.end)
        number, wire = tag >> 3, tag & 7
        if not 0 < tag < 1 << 32:  # others cut it to 32 bits, and see another field
            raise ValueError(f"field {number}")
        if wire == _VARINT:
            value, at = _varint(data, at, span.end)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at, span.end)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if size > span.end - at:
            raise ValueError(f"a field of {size} bytes where {span.end - at} are left")
        yield number, Span(at, at + size)
        at += size


def numbers(data: mmap.mmap | bytes, value: int | Span) -> list[int]:
    """The unsigned numbers of a repeated field: one, or packed several."""
    if isinstance(value, int):
        return [value]
    values, at = [], value.start
    while at < value.end:
        number, at = _varint(data, at, value.end)
        values.append(number)
    return values


def _varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    number = 0
    for place in range(_LONGEST_VARINT):
        if at >= end:
            raise ValueError("a number that is cut off")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("a number of more than 64 bits")
