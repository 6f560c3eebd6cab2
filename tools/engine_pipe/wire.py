"""Knows the form of messages: the length of a JSON header as a 32-bit little-endian number, the
header, then the tensors that it names, raw and little-endian, one after another."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_TYPES = {"float32": "<f4", "int64": "<i8", "uint8": "|u1"}
_MOST_HEADER = 1 << 26  # bytes


@dataclass(frozen=True)
class Message:
    """A header and the tensors that its ``tensors`` lists, each ``{name, type, shape}``."""

    header: Mapping[str, Any]
    tensors: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def read_message(stream: IO[bytes]) -> Message | None:
    """The next message; None at the end of the stream.

    Raises:
        EOFError: the stream ends within a message.
        ValueError: a malformed header.
    """
    start = stream.read(4)
    if not start:
        return None
    (length,) = struct.unpack("<I", _filled(start, stream, 4))
    if length > _MOST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(_filled(b"", stream, length))
    tensors = {}
    for stated in header.get("tensors", ()):
        dtype, shape = np.dtype(_TYPES[stated["type"]]), tuple(stated["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        data = _filled(b"", stream, count * dtype.itemsize)
        tensors[stated["name"]] = np.frombuffer(data, dtype).reshape(shape)
    return Message(header, tensors)


def write_message(stream: IO[bytes], message: Message) -> None:
    """Write a message and flush; raises KeyError for tensors of another type."""
    names = {np.dtype(code): name for name, code in _TYPES.items()}
    arrays = {name: np.asarray(array, order="C") for name, array in message.tensors.items()}
    listed = [
        {"name": name, "type": names[array.dtype], "shape": list(array.shape)}
        for name, array in arrays.items()
    ]
    header = json.dumps({**message.header, "tensors": listed}).encode()
    stream.write(struct.pack("<I", len(header)) + header)
    for array in arrays.values():
        stream.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    stream.flush()


def _filled(start: bytes, stream: IO[bytes], length: int) -> bytes:
    """``start`` and what follows, ``length`` bytes in all."""
    parts, missing = [start], length - len(start)
    while missing > 0:
        part = stream.read(missing)
        if not part:
            raise EOFError("the stream ends within a message")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
