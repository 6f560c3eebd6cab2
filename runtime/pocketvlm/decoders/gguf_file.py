"""Knows how a GGUF file is laid out: its settings and where its tensors lie, read in its bounds.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pocketvlm.errors import ArtifactError

ALIGNMENT = 32
STRING, ARRAY = 8, 9
UINT32, INT32, FLOAT32, BOOL = 4, 5, 6, 7
MAX_ITEMS = 4_000_000  # in a list, in a tensor's axis, and texts in all lists together
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    UINT32: "<I",
    INT32: "<i",
    FLOAT32: "<f",
    BOOL: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_MAX_KEYS, _MAX_TENSORS = 4096, 16_384
_MAX_STRING, _MAX_NAME = 16 << 20, 1024
# Items of a list whose numbers are kept, as many as there may be layers; what is longer is data.
_KEPT_NUMBERS = 512
_VERSIONS = (2, 3)
# Nothing that a terminal or a text of C would take for something else: llama.cpp ends names at NUL.
_NAME = re.compile(rb"[!-~]+")


@dataclass(frozen=True)
class Array:
    """A list's item type and length; its items are there for texts that were asked for, and for a
    few numbers."""

    kind: int
    length: int
    items: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        name: as llama.cpp calls it.
        shape: one to four sizes, that of a row first.
        kind: the type of its values, as numbered by ggml.
        offset: in bytes from `GgufFile.data_start`.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """What is in a file.

    Attributes:
        name: of the file.
        settings: name -> (type, value); texts are bytes, lists are `Array`.
        tensors: in their order.
        data_start: where the tensors' values begin.
        size: of the file, in bytes.
    """

    name: str
    settings: Mapping[str, tuple[int, Any]]
    tensors: tuple[Tensor, ...]
    data_start: int
    size: int

    def refuse(self, reason: str) -> NoReturn:
        """Raise the `ArtifactError` of a file that is not sound."""
        refuse(self.name, reason)


def read_file(path: Path, texts: frozenset[str]) -> GgufFile:
    """Read a file's settings and the places of its tensors: seconds at most, and nothing is
    allocated that the file does not contain.

    Args:
        path: the file.
        texts: names of lists whose texts are kept.

    Raises:
        ArtifactError: no GGUF file, a truncated one, or one of absurd counts or names.
    """
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Reader(path.name, data, texts).file()
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ArtifactError(
            f"{path.name} cannot be read as GGUF ({error})", advice="copy or export it again"
        ) from error


def refuse(name: str, reason: str) -> NoReturn:
    """Raise the `ArtifactError` of a file called ``name`` that is not sound."""
    raise ArtifactError(
        f"{name} is not a sound GGUF file ({reason})", advice="copy or export it again"
    )


class _Reader:
    """Walks over the mapped file; every step stays within it."""

    def __init__(self, name: str, data: mmap.mmap, texts: frozenset[str]) -> None:
        self._file_name = name
        self._data = data
        self._texts = texts
        self._at = 0
        self._left = MAX_ITEMS  # texts in lists

    def file(self) -> GgufFile:
        if self._take(4) != b"GGUF":
            self._refuse("its first bytes are not GGUF")
        if (version := self._number("<I")) not in _VERSIONS:
            self._refuse(f"its version is {version}, supported are {_VERSIONS}")
        tensors = self._count("tensors", _MAX_TENSORS)
        settings = dict(self._settings(self._count("settings", _MAX_KEYS)))
        places = tuple(self._tensor() for _ in range(tensors))
        start = -(-self._at // ALIGNMENT) * ALIGNMENT
        return GgufFile(self._file_name, settings, places, start, len(self._data))

    def _refuse(self, reason: str) -> NoReturn:
        refuse(self._file_name, reason)

    def _take(self, size: int) -> bytes:
        start, end = self._at, self._at + size
        if end > len(self._data):
            self._refuse(f"it ends after {len(self._data)} bytes, inside its header")
        self._at = end
        return self._data[start:end]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _count(self, what: str, limit: int) -> int:
        count: int = self._number("<Q")
        if count > limit:
            self._refuse(f"{count} {what}, at most {limit} are read")
        return count

    def _string(self, limit: int = _MAX_STRING) -> bytes:
        return self._take(self._count("bytes in a text", limit))

    def _name(self, what: str) -> str:
        name = self._string(limit=_MAX_NAME)
        if not name:
            self._refuse(f"a {what} has no name")
        if not _NAME.fullmatch(name):
            self._refuse(f"the name of a {what} is not plain ASCII")
        return name.decode("ascii")

    def _settings(self, count: int) -> Iterator[tuple[str, tuple[int, Any]]]:
        """(name, (type, value)) of each."""
        names: set[str] = set()
        for _ in range(count):
            name = self._name("setting")
            if name in names:
                self._refuse(f"{name} is set twice")
            names.add(name)
            kind = self._number("<I")
            yield name, (kind, self._value(name, kind))

    def _value(self, name: str, kind: int) -> Any:
        if kind in _SCALARS:
            if kind == BOOL and (raw := self._number("<B")) > 1:
                self._refuse(f"{name} is a truth value of {raw}")
            elif kind == BOOL:
                return bool(raw)
            return self._number(_SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            self._refuse(f"{name} has the unknown type {kind}")
        return self._array(name, self._number("<I"), self._count(f"items in {name}", MAX_ITEMS))

    def _array(self, name: str, kind: int, length: int) -> Array:
        if kind in _SCALARS:
            form = _SCALARS[kind]
            content = self._take(length * struct.calcsize(form))
            kept = length if length <= _KEPT_NUMBERS else 0
            return Array(kind, length, struct.unpack(f"<{kept}{form[1]}", content) if kept else ())
        if kind != STRING:
            self._refuse(f"{name} is an array of the type {kind}")
        self._left -= length
        if self._left < 0:
            self._refuse(f"more than {MAX_ITEMS} texts")
        if name in self._texts:
            return Array(kind, length, tuple(self._string() for _ in range(length)))
        for _ in range(length):
            self._string()
        return Array(kind, length)

    def _tensor(self) -> Tensor:
        name = self._name("tensor")
        count = self._number("<I")
        if not 1 <= count <= 4:
            self._refuse(f"{name} has {count} dimensions")
        shape = tuple(self._count(f"values in {name}", MAX_ITEMS) for _ in range(count))
        return Tensor(name, shape, self._number("<I"), self._number("<Q"))
