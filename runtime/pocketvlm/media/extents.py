"""Knows by a clip's own structure whether its file ends too early: an element that states its size
and is not all there.

A clip's duration does not tell: the last frame may start long before the end that a header states,
and sound may be longer than the pictures.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

_MOST_ELEMENTS = 1_000_000  # looked at in one part; whole files within the limits have fewer
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675  # of Matroska; live recordings state no size of them
_MP4_STARTS = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
_TABLES = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
_SIZES = frozenset({b"stsz", b"stz2"})  # tables of the sizes of samples
_MOST_PARTS = 200_000  # tracks and fragments with tables in them
_BOXES = frozenset({b"mdat", b"moov", b"moof"})  # of MP4; others may be cut off


def ends_early(source: BinaryIO) -> bool:
    """Whether a file is cut off inside a part whose size it states.

    Args:
        source: the whole file; it may be left at any place.

    Returns:
        True only for Matroska, WebM, MP4, MOV and GIF. Other files do not state it, or what they
        state is not reliable, and their decoders have to notice.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    start = source.read(12)
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska_ends_early(source, size)
    if start[4:8] in _MP4_STARTS:
        return _mp4_ends_early(source, size)
    if start.startswith((b"GIF87a", b"GIF89a")):
        return _gif_ends_early(source)
    return False


def samples_stated(source: BinaryIO) -> int:
    """How many frames and pieces of sound the tables of an MP4 or MOV file state, for which FFmpeg
    takes memory before it reads any; 0 of other files.

    The tables may state them without having a byte for each.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(4)
    if source.read(4) not in _MP4_STARTS:
        return 0
    total, parts = 0, [(0, size, False)]
    while parts and len(parts) <= _MOST_PARTS:
        at, end, sound = parts.pop()
        inside = list(boxes(source, at, end))
        tables = {kind: _read_at(source, start, 20) for kind, start, _ in inside}
        if handler := tables.get(b"hdlr"):
            sound = handler[8:12] == b"soun"
        parts += [(start, stop, sound) for kind, start, stop in inside if kind in _TABLES]
        if b"cmov" in tables:  # compressed tables, which nobody writes any more
            return 1 << 62
        durations = tables.get(b"stts", b"")
        # Uncompressed sound is taken many samples at a time.
        if not (sound and durations[4:8] + durations[12:16] == b"\0\0\0\1" * 2):
            total += _sum(source, (start + 8 for kind, start, _ in inside if kind in _SIZES))
        total += _sum(source, (start + 4 for kind, start, _ in inside if kind == b"trun"))
    return total if not parts else 1 << 62


def _sum(source: BinaryIO, places: Iterable[int]) -> int:
    return sum(int.from_bytes(_read_at(source, at, 4), "big") for at in places)


def _read_at(source: BinaryIO, at: int, count: int) -> bytes:
    source.seek(at)
    return source.read(count)


def boxes(source: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the content, end) of the boxes in a part of an MP4 or JPEG 2000 file, as
    far as they can be followed."""
    for _ in range(_MOST_ELEMENTS):
        head = _read_at(source, at, 16) if at < end else b""
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head[:8])
        start = at + 8
        if length == 1 and len(head) == 16:
            (length,), start = struct.unpack(">Q", head[8:]), at + 16
        elif length == 0:
            length = end - at
        if length < 8:
            return
        yield kind, start, at + length
        at += length


def _matroska_ends_early(source: BinaryIO, size: int) -> bool:
    at = 0
    for _ in range(_MOST_ELEMENTS):
        source.seek(at)
        head = source.read(12)
        kind, length = _ebml_number(head, keep_marker=True)
        stated, more = _ebml_number(head[length:])
        if not length or not more:
            return at < size  # the beginning of a further element
        at += length + more
        unknown = stated == (1 << 7 * more) - 1
        if kind in (_SEGMENT, _CLUSTER) and unknown:
            continue  # its content comes next
        if unknown:
            return False
        at += stated
        if at >= size or kind == _SEGMENT:
            return at > size
    return False


def _ebml_number(data: bytes, *, keep_marker: bool = False) -> tuple[int, int]:
    """A number of variable length and how many bytes it takes; 0 where there is none."""
    if not data or not data[0]:
        return 0, 0
    length = 9 - data[0].bit_length()
    if length > len(data):
        return 0, 0
    value = int.from_bytes(data[:length], "big")
    return (value if keep_marker else value & ((1 << 7 * length) - 1)), length


def _mp4_ends_early(source: BinaryIO, size: int) -> bool:
    return any(end > size and kind in _BOXES for kind, _start, end in boxes(source, 0, size))


def _gif_ends_early(source: BinaryIO) -> bool:
    source.seek(0)
    flags = source.read(13)[10:11] or b"\0"
    source.seek(_table(flags[0]), os.SEEK_CUR)
    for _ in range(_MOST_ELEMENTS):
        kind = source.read(1)
        if kind == b",":
            head = source.read(9)
            if len(head) < 9:
                return True
            source.seek(_table(head[8]) + 1, os.SEEK_CUR)
        elif kind == b"!":
            source.seek(1, os.SEEK_CUR)
        else:  # the trailer, nothing, or rubbish behind the pictures
            return False
        while (block := source.read(1)) not in (b"\0", b""):
            source.seek(block[0], os.SEEK_CUR)
        if not block:  # no end of its data
            return True
    return False


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
