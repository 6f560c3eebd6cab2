"""Knows how the tables of a flatbuffer are read, within its bounds.

The format: https://flatbuffers.dev/internals. ONNX Runtime's files in ORT format are such.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

_OFFSET = struct.calcsize("<I")
_LONGEST_TEXT = 1 << 16


class Table(NamedTuple):
    """A table: the data and where in it.

    Fields are numbered from 0 in the order of the schema. What is not there is 0, empty or None.
    Whatever lies beyond the data raises `struct.error`.
    """

    data: mmap.mmap | bytes
    at: int

    @classmethod
    def root(cls, data: mmap.mmap | bytes) -> Self:
        """The first table."""
        return cls(data, _read("<I", data, 0))

    def table(self, field: int) -> Table | None:
        """A table in this one."""
        at = self._field(field)
        return None if at is None else Table(self.data, at + _read("<I", self.data, at))

    def tables(self, field: int) -> Iterator[Table]:
        """A vector of tables."""
        start, count = self._vector(field)
        for at in range(start, start + _OFFSET * count, _OFFSET):
            yield Table(self.data, at + _read("<I", self.data, at))

    def text(self, field: int) -> str:
        """A text."""
        start, size = self._vector(field)
        if size > _LONGEST_TEXT or start + size > len(self.data):
            raise struct.error("a text beyond the data")
        return bytes(self.data[start : start + size]).decode("utf-8", "replace")

    def number(self, field: int) -> int:
        """An int32."""
        at = self._field(field)
        return 0 if at is None else _read("<i", self.data, at)

    def _vector(self, field: int) -> tuple[int, int]:
        """Where its items begin, and how many they are."""
        at = self._field(field)
        if at is None:
            return 0, 0
        start = at + _read("<I", self.data, at)
        return start + _OFFSET, _read("<I", self.data, start)

    def _field(self, field: int) -> int | None:
        fields = self.at - _read("<i", self.data, self.at)
        place = 4 + 2 * field
        if place >= _read("<H", self.data, fields):
            return None
        offset = _read("<H", self.data, fields + place)
        return self.at + offset if offset else None


def _read(form: str, data: mmap.mmap | bytes, at: int) -> int:
    if at < 0:
        raise struct.error("before the data")
    number: int = struct.unpack_from(form, data, at)[0]
    return number
