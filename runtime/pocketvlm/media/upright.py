"""Knows how decoded pixels of any mode become upright 8-bit RGB, part by part, so that the picture
is never there a third time.

The steps are those of transformers' ``convert_to_rgb`` (transparency on white, then RGB), after the
orientation that EXIF states. Meant to differ: 16-bit greys keep their upper byte, where Pillow's
conversion makes everything above 255 white; so do 32-bit ones with values beyond 255. Premultiplied
alpha and palettes with alpha count as transparency; the band A of LAB does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ExifTags, Image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREYS = frozenset({"1", "L", "LA", "La", "I", "F"})
_PART_BYTES = 4 << 20
_16_BIT_FORMATS = frozenset({"PNG", "PPM"})  # whose greys beyond 8 bits Pillow scales to 16


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation of an image that a caller made or opened; 1 if the metadata cannot be
    read, because a fault in it is not one of the picture."""
    try:
        # Of the base class: a format's own would decode the picture to look for further notes.
        stated = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - whatever a parser of notes raises
        return 1
    return stated if isinstance(stated, int) else 1


def is_grey(image: Image.Image) -> bool:
    """Whether its pixels have no colour, whatever their depth."""
    return image.mode in _GREYS or image.mode.startswith("I;16")


def upright_rgb(
    image: Image.Image, orientation: int = 1, *, reduction: int = 1, consume: bool = False
) -> Image.Image:
    """An image as upright 8-bit RGB, its transparency on white.

    Args:
        image: in any mode that Pillow converts to RGB.
        orientation: EXIF's, 1 to 8; any other number is 1.
        reduction: edge in pixels of the squares that are averaged to one; 1 leaves all.
        consume: the image is nobody else's: its memory is freed as soon as it can be.

    Returns:
        An RGB image without notes; where nothing was to be done it may be ``image`` itself.
    """
    image.load()
    grey = is_grey(image)
    if image.mode == "RGB" and not _is_transparent(image) and reduction == 1:
        made = image
    else:
        made = _by_parts(image, "L" if grey else "RGB", reduction)
        if consume:
            image.close()
    if orientation in _TURNS:
        made = made.transpose(_TURNS[orientation])
    if grey:
        made = made.convert("RGB")
    if consume or made is not image:
        made.info = {}  # the orientation is of the pixels before
    return made


def _by_parts(image: Image.Image, mode: str, reduction: int) -> Image.Image:
    """Converted to "L" or "RGB" some rows at a time, and reduced."""
    width, height = image.size
    shift = _shift(image)
    made = Image.new(mode, (-(-width // reduction), -(-height // reduction)))
    rows = max(_PART_BYTES // (4 * width) // reduction, 1) * reduction
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(top + rows, height)))
        part = _converted(part, mode, shift)
        made.paste(part if reduction == 1 else part.reduce(reduction), (0, top // reduction))
    return made


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return True
    if image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        return True
    return image.info.get("transparency") is not None


def _converted(part: Image.Image, mode: str, shift: int | None) -> Image.Image:
    if shift is not None:
        return _to_8_bits(part, shift)
    if not _is_transparent(part):
        return part.convert(mode)
    # Some modes have no way to RGBA but by another.
    by = {"La": "LA"}.get(part.mode)
    part = (part.convert(by) if by else part).convert("RGBA")
    white = Image.new("RGBA", part.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, part).convert(mode)


def _shift(image: Image.Image) -> int | None:
    """By how many bits greys of over 8 bits are shifted down to 8; None of other modes."""
    if image.mode.startswith("I;16"):
        return 8
    if image.mode != "I":
        return None
    if image.format in _16_BIT_FORMATS:
        return 8
    least_and_most: Any = image.getextrema()
    return 8 if least_and_most[1] > 255 else 0  # the range tells the depth


def _to_8_bits(part: Image.Image, shift: int) -> Image.Image:
    samples = np.asarray(part).astype(np.int64)
    grey = np.clip(samples >> shift, 0, 255).astype(np.uint8)
    key = part.info.get("transparency")
    if isinstance(key, int):  # the value that is transparent, at the depth of the file
        grey[samples == key] = 255
    return Image.fromarray(grey)
