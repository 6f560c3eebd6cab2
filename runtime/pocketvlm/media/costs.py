"""Knows what reading a picture takes before it is decoded, in bytes and in work, and refuses what
is beyond the limits or decides to read it smaller."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from PIL import Image

from pocketvlm.errors import PictureError
from pocketvlm.limits import PictureLimits
from pocketvlm.media.notes import BareFile
from pocketvlm.media.pieces import MOST_PIECES
from pocketvlm.media.upright import is_grey

# JPEG is not decoded at a fraction of its size below this, whatever memory is allowed: it changes
# pixels.
REDUCED_ABOVE = 36_000_000
_SCALES = (1, 2, 4, 8)  # of the fractions at which libjpeg decodes
_REDUCTIONS = (1, 2, 4)

# Scans of a JPEG picture: files have 1 to 15, libjpeg takes any number. Each pass takes about a
# millisecond per megapixel, however few bytes it has in the file.
_MOST_SCANS = 500
_MOST_SCANNED = 4_000_000_000  # scans times pixels
# Decoders that Pillow has in Python only take about a microsecond per byte.
_SLOW_DECODERS = frozenset({"ppm", "ppm_plain", "bmp_rle"})
_MOST_SLOW_BYTES = 8 << 20
_MOST_ICON = 1 << 20  # pixels of a PNG inside an icon, whose header says 256x256 at most
_PNG = b"\x89PNG\r\n\x1a\n"

# Bytes per pixel that Pillow keeps of each mode.
_NARROW: Final[Mapping[str, int]] = MappingProxyType({"1": 1, "L": 1, "P": 1})


def _nothing(_image: Image.Image) -> float:
    return 0.1  # some rows


def _of_tiff(image: Image.Image) -> float:
    """libtiff decodes a strip or a tile at once, which may be the whole picture, or more."""
    tags = getattr(image, "tag_v2", {})
    width, height = image.size
    bits = tags.get(258, (8,))
    sample = max(4.0, sum(bits) / 8 if isinstance(bits, tuple) else float(bits) / 8)
    if 322 in tags:
        part = float(tags[322]) * float(tags.get(323, 1))
    else:
        part = width * min(float(tags.get(278, height)), height)
    turning = 4.0 if tags.get(274, 1) != 1 else 0.0  # while it is loaded
    return max(sample * part / (width * height), turning)


# The formats that are read, and what their decoders keep beside the picture, in bytes per pixel, as
# measured. Raster formats only: Pillow would hand EPS to Ghostscript, and others read further
# files. The common ones come first, as importing the plug-ins of the others takes Pillow a tenth of
# a second.
COMMON: Final[Mapping[str, Callable[[Image.Image], float]]] = MappingProxyType(
    {
        "JPEG": _nothing,  # and `BareFile.buffered`
        "PNG": _nothing,
        "GIF": _nothing,
        "BMP": lambda _image: 1.0,
        "PPM": _nothing,
    }
)
RARE: Final[Mapping[str, Callable[[Image.Image], float]]] = MappingProxyType(
    {
        "WEBP": lambda _image: 12.5,
        "TIFF": _of_tiff,
        "AVIF": lambda _image: 12.0,
        "JPEG2000": lambda image: 5.4 * len(image.getbands()),
        "ICO": lambda _image: 4.0,
    }
)


@dataclass(frozen=True)
class Reading:
    """How a picture is read.

    Attributes:
        scale: the decoder makes 1 pixel of so many squared; 1 is all of them.
        reduction: likewise, but of the decoded pixels.
    """

    scale: int = 1
    reduction: int = 1


def check_size(image: Image.Image, name: str, limits: PictureLimits) -> None:
    """Raise `PictureError` for a picture with too many pixels, too long a side, or none."""
    width, height = image.size
    if width * height > limits.max_pixels:
        raise PictureError(
            f"{name} has {width}x{height} pixels, the limit is {limits.max_pixels}",
            advice="scale it down",
        )
    if max(width, height) > limits.max_side:
        raise PictureError(
            f"{name} has {width}x{height} pixels, the limit of a side is {limits.max_side}",
            advice="cut or scale it down",
        )
    if width <= 0 or height <= 0:
        raise PictureError(
            f"{name} has {width}x{height} pixels", advice="give a picture that is not empty"
        )


def check_pieces(file: BareFile, name: str) -> None:
    """Raise `PictureError` for a file that takes minutes to open, being made of so many pieces."""
    if file.pieces > MOST_PIECES:
        raise PictureError(
            f"{name} is made of more than {MOST_PIECES} pieces", advice="save it again"
        )


def check_work(image: Image.Image, file: BareFile, name: str) -> None:
    """Raise `PictureError` for a file that would keep its decoder busy far longer than its pixels
    explain."""
    pixels = image.width * image.height
    if file.scans > _MOST_SCANS or file.scans * pixels > _MOST_SCANNED:
        raise PictureError(
            f"{name} has {file.scans} scans of {image.width}x{image.height} pixels",
            expected=f"at most {min(_MOST_SCANS, _MOST_SCANNED // pixels)} for its size",
            advice="save it again",
        )
    tiles = getattr(image, "tile", [])
    if tiles and tiles[0][0] in _SLOW_DECODERS and len(file.data) > _MOST_SLOW_BYTES:
        raise PictureError(
            f"{name} has {len(file.data)} bytes in a variant of {image.format} that is slow to "
            f"read, for which the limit is {_MOST_SLOW_BYTES}",
            advice="save it as PNG",
        )
    if image.format == "ICO" and any(size > _MOST_ICON for size in _sizes_inside(file.data)):
        raise PictureError(f"{name} holds more pixels than an icon", advice="save it as PNG")


def how_to_read(
    image: Image.Image,
    file: BareFile | None,
    name: str,
    limits: PictureLimits,
    *,
    turned: bool = False,
) -> Reading:
    """The largest size at which a picture can be read within `PictureLimits.max_memory`.

    Args:
        image: opened, not yet decoded where it comes from a file.
        file: where it comes from; None where its pixels are there already.
        name: for messages.
        limits: what reading may take.
        turned: whether it has to be turned or mirrored to be upright.

    Raises:
        PictureError: not even decoding it fits.
    """
    pixels, own, beside = image.width * image.height, 0.0, 0.0
    if file is not None or getattr(image, "tile", None):  # not yet decoded
        own = _bytes_of(image.mode)
        beside = ({**COMMON, **RARE}.get(image.format or "") or _nothing)(image)
        beside += file.buffered if file is not None else 0.0
    bytes_per_pixel = functools.partial(_bytes_per_pixel, image, own, beside, turned)
    fits = [
        reading
        for reading in _readings(image, file)
        if pixels * bytes_per_pixel(reading) <= limits.memory_bytes
    ]
    if not fits:
        least = pixels * min(map(bytes_per_pixel, _readings(image, file)))
        raise PictureError(
            f"reading {name}, {image.width}x{image.height} pixels of {image.format or image.mode}, "
            f"takes at least {least / 1e6:.0f} MB, the limit is {limits.memory_bytes / 1e6:.0f}",
            advice="scale it down or save it as PNG",
        )
    return fits[0]


def _readings(image: Image.Image, file: BareFile | None) -> list[Reading]:
    if image.width * image.height <= REDUCED_ABOVE:
        return [Reading()]
    if file is not None and image.format == "JPEG":
        return [Reading(scale=scale) for scale in _SCALES]
    return [Reading(reduction=factor) for factor in _REDUCTIONS]


def _bytes_per_pixel(
    image: Image.Image, own: float, beside: float, turned: bool, reading: Reading
) -> float:
    """At the worst moment: while decoding, while converting, or while turning."""
    own /= reading.scale**2
    area = (reading.scale * reading.reduction) ** 2
    grey = is_grey(image)
    made = (1 if grey else 4) / area
    unchanged = image.mode == "RGB" and reading.reduction == 1
    converting = own if unchanged and own else own + made
    turning = 2 * made if turned else 0.0
    return max(own + beside, converting, turning, 5 / area if grey else 0.0)


def _bytes_of(mode: str) -> float:
    return 2.0 if mode.startswith("I;16") else float(_NARROW.get(mode, 4))


def _sizes_inside(data: bytes) -> list[int]:
    """Pixels of each PNG file in an icon, by its header."""
    starts, at = [], data.find(_PNG)
    while at >= 0 and at + 24 <= len(data):
        width, height = struct.unpack_from(">2I", data, at + 16)
        starts.append(width * height)
        at = data.find(_PNG, at + 1)
    return starts
