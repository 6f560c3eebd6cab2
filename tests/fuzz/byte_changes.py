"""Knows how bytes are damaged: bits, stretches, lengths, and pieces of other files."""

import struct
from collections.abc import Sequence
from random import Random

NUMBERS = (
    0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1,
)  # fmt: skip
_FORMS = ("B", "<H", ">H", "<I", ">I", "<Q", ">Q")
_MOST = 1 << 20


def damaged(random: Random, data: bytes, others: Sequence[bytes] = (), head: int = 0) -> bytes:
    """A copy with one to four changes; most of them in its first ``head`` bytes, where that is
    given, and all at places that it has."""
    copy = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not copy:
            break
        place = random.randrange(
            min(head, len(copy)) if head and random.random() < 0.8 else len(copy)
        )
        _change(random, copy, place, others)
    return bytes(copy[:_MOST])


def _change(random: Random, copy: bytearray, place: int, others: Sequence[bytes]) -> None:
    kind = random.randrange(9)
    length = min(random.choice((1, 2, 4, 8, 16, 64, 256, 1024)), len(copy) - place)
    if kind == 0:
        copy[place] ^= 1 << random.randrange(8)
    elif kind == 1:
        copy[place] = random.randrange(256)
    elif kind in (2, 3):  # what may be a length, a count or an offset
        form = random.choice(_FORMS)
        size = struct.calcsize(form)
        number = random.choice(NUMBERS) % (1 << 8 * size)
        copy[place : place + size] = struct.pack(form, number)
    elif kind == 4:
        del copy[place : place + length]
    elif kind == 5:
        copy[place:place] = copy[place : place + length] * random.choice((1, 2, 64))
    elif kind == 6:
        del copy[max(1, place) :]
    elif kind == 7:
        copy[place : place + length] = random.randbytes(length)
    elif others:
        other = random.choice(others)
        start = random.randrange(max(1, len(other)))
        copy[place : place + length] = other[start : start + random.choice((length, 512))]
