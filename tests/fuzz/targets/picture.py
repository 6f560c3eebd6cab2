"""Pictures of every format that is read."""

import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from fuzz.base import Target, put
from fuzz.byte_changes import damaged
from pocketvlm.media.costs import COMMON, RARE
from pocketvlm.media.pictures import open_picture, upright_size
from support.picture_files import (
    encoded,
    jpeg_with,
    many_scans,
    photograph,
    png_of_samples,
    png_with,
)

_PNG = b"\x89PNG\r\n\x1a\n"


class Fuzz(Target):
    """See the module."""

    threat = (
        "a picture that crashes its decoder, decodes to gigabytes, or keeps it busy for minutes"
    )
    memory_mb = 700  # PictureLimits.max_memory, and its file

    def prepare(self, folder: Path) -> None:
        del folder
        image, modes = photograph(40, 30), {}
        for name in (*COMMON, *RARE):
            modes[name] = [encoded(image, name)]
            for mode in ("L", "P", "RGBA", "1", "I;16", "CMYK", "LA"):
                try:
                    modes[name].append(
                        encoded(image.convert("L" if mode == "I;16" else mode).convert(mode), name)
                    )
                except (OSError, ValueError, KeyError):
                    continue  # not of this format
        modes["JPEG"] += [
            encoded(image, "JPEG", progressive=True),
            many_scans(16, 16, 5),
            jpeg_with(
                image, (0xE1, b"Exif\0\0" + _exif()), (0xE2, b"ICC_PROFILE\0\1\1" + b"a" * 200)
            ),
        ]
        modes["PNG"] += [
            png_with(image, (b"tEXt", b"a\0b"), (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 5000))),
            png_with(image, (b"eXIf", _exif()), (b"iCCP", b"a\0\0" + zlib.compress(b"b" * 300))),
            png_of_samples(np.zeros((9, 7, 1), np.uint32), 16, 0, key=b"\0\0"),
            png_of_samples(np.zeros((9, 7, 1), np.uint32), 2, 3, palette=b"abcdef"),
        ]
        modes["TIFF"] += [
            encoded(image, "TIFF", compression=each)
            for each in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ]
        frames = [photograph(20 + n, 20) for n in range(2)]
        for name in ("GIF", "TIFF", "PNG"):
            modes[name].append(encoded(image, name, save_all=True, append_images=frames))
        modes["WEBP"].append(encoded(image, "WEBP", lossless=True))
        modes["PPM"].append(b"P3\n2 2\n255\n1 2 3 4 5 6 7 8 9 10 11 12\n")
        self.formats = list(modes.values())

    def write(self, random: Random, box: Path) -> None:
        files = random.choice(self.formats)
        content = damaged(random, random.choice(files), files, head=random.choice((0, 0, 64, 400)))
        if content.startswith(_PNG) and random.random() < 0.7:
            content = _with_checksums(content)
        put(box / "picture", content)

    def use(self, box: Path) -> None:
        content = (box / "picture").read_bytes()
        try:
            upright_size(content)
        finally:
            np.asarray(open_picture(content)).max()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _with_checksums(content: bytes) -> bytes:
    """A PNG file whose chunks have the right checksums, as far as there are chunks."""
    made, place = content[:8], 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        if place + 12 + size > len(content):
            break
        body = content[place + 4 : place + 8 + size]
        made += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return made + content[place:]
