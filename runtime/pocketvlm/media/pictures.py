"""Knows how a picture from anywhere becomes upright 8-bit RGB, and what is refused before it is
decoded."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pocketvlm.errors import PictureError
from pocketvlm.files import user_path
from pocketvlm.limits import PictureLimits

Picture = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]

# Raster formats only: Pillow would hand EPS to Ghostscript, and others read further files. The
# common ones are tried first, as importing the plug-ins of the others takes Pillow a tenth of a
# second.
_COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM")
_RARE = ("WEBP", "TIFF", "AVIF", "JPEG2000", "ICO")
# What Pillow's decoders raise on bytes that are not what their header promises.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_PILLOW_LIMIT = threading.Lock()


def open_picture(picture: Picture, limits: PictureLimits | None = None) -> Image.Image:
    """Read a picture as an upright RGB image.

    EXIF orientation is applied, the first frame of an animation is taken, 16-bit samples keep their
    upper byte, and transparency is composited onto white, as transformers' image processors do
    since version 5.

    Args:
        picture: a path, the bytes of a file, a PIL image, or uint8 (height, width[, 1 | 3 | 4]).
        limits: caps on bytes and pixels; None takes the defaults of `PictureLimits`.

    Raises:
        PocketVLMError: no such file, beyond a limit, empty, truncated, or no picture; it names the
            file.
    """
    limits = limits or PictureLimits()
    if isinstance(picture, np.ndarray):
        return _upright_rgb(_from_array(picture, limits), "the array")
    if isinstance(picture, Image.Image):
        _check_pixels(picture, "the picture", limits)
        return _upright_rgb(picture, "the picture")
    name, data = _read(picture, limits)
    try:
        with _pillow_limit(limits.max_pixels):
            image = _identify(data)
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has over {2 * limits.max_pixels} pixels, the limit is {limits.max_pixels}",
            advice="scale it down",
        ) from error
    except _DECODE_ERRORS as error:
        raise PictureError(
            f"{name} is not a picture this can read",
            advice="give JPEG, PNG, WebP, GIF, BMP or TIFF",
        ) from error
    with image:
        _check_pixels(image, name, limits)
        return _upright_rgb(image, name)


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """The caller's limit in place of Pillow's, a global: Pillow warns above it and refuses above
    twice as many pixels.

    It holds while the header is read, which is when Pillow looks; sizes up to twice the limit are
    left to us.
    """
    with _PILLOW_LIMIT, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _identify(data: bytes) -> Image.Image:
    """Read the header only; pixels are decoded when they are first read."""
    try:
        return Image.open(io.BytesIO(data), formats=_COMMON)
    except UnidentifiedImageError:
        Image.init()  # registers the rest, as far as this build of Pillow has them
        return Image.open(io.BytesIO(data), formats=[name for name in _RARE if name in Image.OPEN])


def _read(picture: str | os.PathLike[str] | bytes, limits: PictureLimits) -> tuple[str, bytes]:
    """A name for messages, and the bytes: never more than the limit is read, whatever the file
    grows to."""
    if isinstance(picture, bytes):
        name, data = "the picture", picture
    elif not isinstance(picture, (str, os.PathLike)):
        raise PictureError(
            f"a picture is of type {type(picture).__name__}",
            expected="a path, bytes, a PIL image or an array",
        )
    else:
        name = os.fspath(picture)
        if name.startswith(("http:", "https:", "data:")):
            raise PictureError(
                f"{name[:80]} is no file, and nothing is fetched",
                advice="download the picture and give its path",
            )
        try:
            with user_path(name).open("rb") as stream:
                data = stream.read(limits.max_bytes + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise PictureError(
                f"picture {name} cannot be read ({reason})", advice="give the path of a picture"
            ) from error
    if not data:
        raise PictureError(f"{name} is empty", advice="give a picture file")
    if len(data) > limits.max_bytes:
        raise PictureError(
            f"{name} has more than {limits.max_bytes} bytes, the limit",
            advice="give a smaller file",
        )
    return name, data


def _check_pixels(image: Image.Image, name: str, limits: PictureLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise PictureError(
            f"{name} has {width}x{height} pixels, the limit is {limits.max_pixels}",
            advice="scale it down",
        )
    if width == 0 or height == 0:
        raise PictureError(
            f"{name} has {width}x{height} pixels", advice="give a picture that is not empty"
        )


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.getbands() or upright.info.get("transparency") is not None:
            upright = upright.convert("RGBA")
            white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, upright).convert("RGB")
        return _to_8_bits(upright).convert("RGB")
    except _DECODE_ERRORS as error:
        raise PictureError(
            f"{name} is damaged or truncated ({error})", advice="give the whole picture"
        ) from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit grey; Pillow's own conversion of these modes clips at 255."""
    if not image.mode.startswith("I"):
        return image
    samples = np.asarray(image).astype(np.int64)
    # Older Pillow opens 16-bit PNG as 32-bit "I": there the range of the values tells the depth.
    shift = 8 if image.mode != "I" or samples.max() > 255 else 0
    return Image.fromarray(np.clip(samples >> shift, 0, 255).astype(np.uint8))


def _from_array(array: npt.NDArray[np.uint8], limits: PictureLimits) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    ):
        raise PictureError(
            f"an array of {array.dtype} {array.shape} is no picture",
            advice="give uint8 (height, width, 1|3|4)",
        )
    height, width = array.shape[:2]
    if not 0 < height * width <= limits.max_pixels:
        raise PictureError(
            f"the array has {width}x{height} pixels", expected=f"1 to {limits.max_pixels}"
        )
    return Image.fromarray(array)
