"""Knows how many pieces a picture file has that Pillow's Python code would read before it reaches a
pixel. A file of nothing but them keeps it busy for minutes."""

from __future__ import annotations

import io
import re

from pocketvlm.media.extents import boxes

MOST_PIECES = 200_000  # whole files have some thousands
_TOO_MANY = MOST_PIECES + 1
# The header of PPM and its like: numbers, with space and comments between them.
_PPM_HEAD = re.compile(rb"P[1-6Ffy](?:(?:\s|#[^\r\n]*[\r\n])+[-\d.]+){2}")
_PPM_MOST_HEAD = 65_536  # bytes


def count_pieces(data: bytes) -> int:
    """Pieces before the pixels of a GIF, PPM or JPEG 2000 file, counted up to ``MOST_PIECES`` and
    one more. 1 for other files, which have none or are read by C code."""
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _pieces_of_gif(data)
    if data[:1] == b"P" and data[1:2] in b"123456Ffy" and len(data) > _PPM_MOST_HEAD:
        return 1 if _PPM_HEAD.match(data[:_PPM_MOST_HEAD]) else _TOO_MANY
    if data[4:8] == b"jP  ":
        return _pieces_of_jp2(data)
    return 1


def _pieces_of_gif(data: bytes) -> int:
    """Blocks of extensions, and bytes outside of any, up to the first picture."""
    pieces, at = 1, 13
    if len(data) > 10 and data[10] & 0x80:
        at += 3 * 2 ** ((data[10] & 7) + 1)
    while at < len(data) and data[at] not in b",;" and pieces <= MOST_PIECES:
        pieces += 1
        if data[at] != 0x21:  # rubbish, of which Pillow tries every byte
            at += 1
            continue
        at += 2
        while at < len(data) and data[at] and pieces <= MOST_PIECES:
            pieces, at = pieces + 1, at + 1 + data[at]
        at += 1
    return pieces


def _pieces_of_jp2(data: bytes) -> int:
    source, pieces = io.BytesIO(data), 1
    for kind, start, end in boxes(source, 0, len(data)):
        inner = boxes(source, start, min(end, len(data))) if kind == b"jp2h" else ()
        for _ in inner:
            pieces += 1
            if pieces > MOST_PIECES:
                return pieces
        pieces += 1
        if pieces > MOST_PIECES:
            return pieces
    return pieces
