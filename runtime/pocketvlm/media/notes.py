"""Knows which bytes of a picture file make its pixels, and which are notes beside them: EXIF, XMP,
colour profiles, comments, further pictures.

Decoding libraries read those notes too, and many of their failures are there: a sound picture with
an odd note is not a damaged picture. So they get the file without, and of the notes only those that
may say which way is up are handed on.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.media.pieces import MOST_PIECES, count_pieces

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_JPEG = b"\xff\xd8\xff"
_JPEG_NOTES = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})  # APP0 and APP14 tell the colours
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that nothing follows
# The end of entropy-coded data, in which 0xFF is followed by 0x00 or is a restart marker.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TIFF_POINTERS = {34665: 34664, 34853: 34852}  # to further lists of notes, and unassigned tags
_ORIENTATION = 274
_WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # types of whole numbers
_XMP_ORIENTATION = re.compile(r'tiff:Orientation(?:="|>)([0-9])')
_MOST_ENTRIES = 65_536  # of a list of TIFF tags
_MOST_NOTE = 1 << 20  # bytes of a note once decompressed
_RAW_PROFILE = b"Raw profile type exif"
_XMP = b"XML:com.adobe.xmp"


@dataclass(frozen=True)
class BareFile:
    """A picture file without its notes.

    Attributes:
        data: the file; the very same bytes where there is nothing to leave out.
        info: the notes that may state the orientation, by the names that Pillow has for them.
        pieces: segments, chunks or blocks that it is made of, see `pocketvlm.media.pieces`.
        scans: passes over the pixels that a JPEG file makes; 1 of other formats.
        buffered: bytes per pixel that a decoder keeps of a JPEG file's coefficients, as several
            scans make up each; 0 where it needs none.
    """

    data: bytes
    info: dict[str, Any] = field(default_factory=dict)
    pieces: int = 1
    scans: int = 1
    buffered: float = 0.0


def without_notes(data: bytes) -> BareFile:
    """The file without its notes, as far as its format is one of those whose notes can do harm.
    What is damaged stays as it is. Never raises."""
    try:
        if data.startswith(_PNG):
            return _bare_png(data)
        if data.startswith(_JPEG):
            return _bare_jpeg(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return BareFile(_bare_tiff(data))
        if data[4:8] == b"ftyp":
            # The orientation is a property of the picture here, and the EXIF's does not count.
            end = data.find(b"mdat")
            return BareFile(data[:end].replace(b"Exif", b"exif") + data[end:])
        return BareFile(data, pieces=count_pieces(data))
    except (struct.error, ArithmeticError, LookupError, ValueError):
        return BareFile(data)


def orientation_in(info: Mapping[Any, Any]) -> int:
    """EXIF's orientation, 1 to 8, by the notes in Pillow's ``info``: EXIF's own, else XMP's; 1
    where there is none that can be read.

    Nothing else in them is read, and none of it is an error.
    """
    try:
        if (exif := info.get("exif")) is None:
            profile = info.get(_RAW_PROFILE.decode(), "")
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        stated = _orientation(exif.removeprefix(b"Exif\0\0"))
    except (struct.error, ValueError, AttributeError, TypeError):
        stated = None
    if stated is None:
        xmp = info.get(_XMP.decode()) or info.get("xmp") or ""
        match = _XMP_ORIENTATION.search(xmp if isinstance(xmp, str) else xmp.decode("latin-1"))
        stated = int(match[1]) if match else 1
    return stated if 1 <= stated <= 8 else 1


def _orientation(exif: bytes) -> int | None:
    """What the first list of tags in EXIF states, a whole number of any size; None where it does
    not."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    (first,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, first)
    for at in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values = struct.unpack_from(order + "HHI", exif, at)
        if tag == _ORIENTATION and kind in _WHOLE and values == 1:
            value: int = struct.unpack_from(order + _WHOLE[kind], exif, at + 8)[0]
            return value
    return None


def _bare_png(data: bytes) -> BareFile:
    info: dict[str, Any] = {}
    kept, header, pieces = [_PNG], b"", 0
    for kind, body, chunk in _png_chunks(data):
        pieces += 1
        if pieces > MOST_PIECES:
            return BareFile(data, pieces=pieces)
        if kind == b"IHDR":
            header = body
        if kind == b"tRNS":
            chunk = _scaled_key(header, body, chunk)
        if kind in _PNG_PIXELS:
            kept.append(chunk)
        elif kind == b"eXIf":
            info.setdefault("exif", b"Exif\0\0" + body)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            with suppress(ArithmeticError, LookupError, ValueError):
                info |= _png_text(kind, body)
    return BareFile(b"".join(kept), info, pieces)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(type, content, the whole chunk) of each; of pixels the content is left empty. What cannot be
    followed comes as pixels, for the decoder to judge."""
    at = len(_PNG)
    while at < len(data):
        kind, end = data[at + 4 : at + 8], len(data) + 1
        if len(kind) == 4 and kind.isalpha():
            end = at + 12 + int(struct.unpack_from(">I", data, at)[0])
        if end > len(data):
            yield b"IDAT", b"", data[at:]
            return
        yield kind, b"" if kind == b"IDAT" else data[at + 8 : end - 4], data[at:end]
        at = end
        if kind == b"IEND":
            return


def _scaled_key(header: bytes, body: bytes, chunk: bytes) -> bytes:
    """The chunk that names a transparent grey or colour, at the depth that Pillow decodes to.

    Pillow compares it with 8-bit samples, while it is stated at the depth of the file. Of 16-bit
    colours it keeps the upper bytes only.
    """
    depth, colours = header[8], header[9]
    samples = struct.unpack(f">{len(body) // 2}H", body[: len(body) // 2 * 2])
    if colours == 0 and depth in (2, 4) and samples:
        most = (1 << depth) - 1
        body = struct.pack(">H", (samples[0] & most) * 255 // most)
    elif colours == 2 and depth == 16 and len(samples) >= 3:
        body = struct.pack(">3H", *(sample >> 8 for sample in samples[:3]))
    else:
        return chunk
    return struct.pack(">I", len(body)) + _with_checksum(b"tRNS" + body)


def _with_checksum(chunk: bytes) -> bytes:
    return chunk + struct.pack(">I", zlib.crc32(chunk))


def _png_text(kind: bytes, body: bytes) -> dict[str, Any]:
    """The text chunks in which EXIF or XMP may come."""
    name, _, rest = body.partition(b"\0")
    if name == _RAW_PROFILE and kind in (b"tEXt", b"zTXt"):
        text = _inflated(rest[1:]) if kind == b"zTXt" else rest
        return {_RAW_PROFILE.decode(): text.decode("latin-1")}
    if name == _XMP and kind == b"iTXt":
        text = rest[2:].split(b"\0", 2)[2]
        text = _inflated(text) if rest[:1] == b"\1" else text
        return {_XMP.decode(): text.decode("utf-8", "replace")}
    return {}


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MOST_NOTE)
    except zlib.error:
        return b""


def _bare_jpeg(data: bytes) -> BareFile:
    info: dict[str, Any] = {}
    kept, at, frame, pieces = [data[:2]], 2, b"", 0
    while at + 4 <= len(data) and data[at] == 0xFF and pieces <= MOST_PIECES:
        pieces += 1
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 if marker in _JPEG_ALONE else at + 2 + _length(data, at)
        if marker in (0xDA, 0xD9):
            break
        body = data[at + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = data[at + 1 : end]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            info["exif"] = info.get("exif", b"Exif\0\0") + body[6:]
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            info["xmp"] = body.split(b"\0", 1)[1]
        if marker not in _JPEG_NOTES:
            kept.append(data[at:end])
        at = end
    bare = data if sum(map(len, kept)) == at else b"".join((*kept, data[at:]))
    scans = _scans(data, at)
    return BareFile(bare, info, pieces + scans, scans, _buffered(frame, data[at : at + 5]))


def _length(data: bytes, at: int) -> int:
    length: int = struct.unpack_from(">H", data, at + 2)[0]
    return length


def _scans(data: bytes, at: int) -> int:
    """Scans from the first one on, up to the end of the picture."""
    scans = 0
    while scans <= MOST_PIECES and (match := _JPEG_MARKER.search(data, at)) is not None:
        at, marker = match.start(), data[match.start() + 1]
        if marker == 0xD9 or at + 4 > len(data):
            break
        scans += marker == 0xDA
        at += 2 if marker in _JPEG_ALONE else 2 + _length(data, at)
    return max(scans, 1)


def _buffered(frame: bytes, first_scan: bytes) -> float:
    """Bytes per pixel of all coefficients, 2 each, where more than one scan makes up each of them.

    Args:
        frame: the segment of the frame, from the second byte of its marker on.
        first_scan: the first 5 bytes of the first scan's, of which the last is its components.
    """
    if len(frame) < 9 or len(first_scan) < 5:
        return 0.0
    components = frame[8]
    progressive = frame[0] & 3 == 2
    if not progressive and first_scan[4] >= components:
        return 0.0
    factors = [frame[10 + 3 * number] for number in range(components)]
    areas = [(factor >> 4) * (factor & 15) for factor in factors]
    most = max(factor >> 4 for factor in factors) * max(factor & 15 for factor in factors)
    return 2 * sum(areas) / max(most, 1)


def _bare_tiff(data: bytes) -> bytes:
    """The file with its first picture alone: no next one, and no list of EXIF or GPS tags, which
    Pillow reads with the pixels."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    count_format, entry, next_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    (count,) = struct.unpack_from(order + count_format, data, first)
    start = first + struct.calcsize(order + count_format)
    if count > _MOST_ENTRIES or start + count * entry > len(data):
        return data
    changed = bytearray(data)
    for at in range(start, start + count * entry, entry):
        (tag,) = struct.unpack_from(order + "H", data, at)
        if tag in _TIFF_POINTERS:
            struct.pack_into(order + "H", changed, at, _TIFF_POINTERS[tag])
    end = start + count * entry
    if end + struct.calcsize(order + next_format) <= len(data):
        struct.pack_into(order + next_format, changed, end, 0)
    return bytes(changed)
