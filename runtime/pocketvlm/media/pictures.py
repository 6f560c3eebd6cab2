"""Knows how a picture from anywhere becomes upright 8-bit RGB, and what is refused before it is
decoded."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from pocketvlm.errors import PictureError, library_errors
from pocketvlm.limits import PictureLimits
from pocketvlm.media.costs import COMMON, RARE, check_pieces, check_size, check_work, how_to_read
from pocketvlm.media.notes import BareFile, orientation_in, without_notes
from pocketvlm.media.sources import open_regular
from pocketvlm.media.upright import orientation_of, upright_rgb

Picture = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PictureFile:
    """The content of a picture's file, read and not decoded yet.

    Attributes:
        name: of the file, for messages.
        data: its bytes.
    """

    name: str
    data: bytes

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


_WHOLE_SIZE = "whole size"  # (width, height) of a picture that was read smaller, among its notes
_PILLOW_LIMIT = threading.Lock()
_TAGS = ExifTags.Base
_SIDEWAYS = frozenset({5, 6, 7, 8})  # of EXIF's orientations, those that swap width and height


def read_picture(picture: Picture, limits: PictureLimits | None = None) -> Picture | PictureFile:
    """A picture with its file read, where it is a path or bytes; any other as it is.

    Raises:
        PictureError: see `open_picture`, as far as it is about the file.
    """
    if isinstance(picture, np.ndarray | Image.Image):
        return picture
    return PictureFile(*_read(picture, limits or PictureLimits()))


def open_picture(
    picture: Picture | PictureFile, limits: PictureLimits | None = None
) -> Image.Image:
    """Read a picture as an upright RGB image.

    EXIF orientation is applied, the first frame of an animation is taken, and 16-bit greys keep
    their upper byte. Transparency is composited onto white, as transformers' image processors do
    since version 5. No other note in the file is read. A picture that takes too much memory may be
    read at a fraction of its size, see `PictureLimits.max_memory` and `whole_size`.

    Args:
        picture: a path, the bytes of a file, a PIL image, or uint8 (height, width[, 1 | 3 | 4]); or
            what `read_picture` gave.
        limits: caps on bytes, pixels and memory; None takes the defaults of `PictureLimits`.

    Raises:
        PictureError: no such file, beyond a limit, empty, truncated, or no picture; it names the
            file. Whatever a decoder raises becomes one.
    """
    limits = limits or PictureLimits()
    if isinstance(picture, np.ndarray):
        with _refusals("the array"):
            return _read_pixels(_from_array(picture, limits), "the array", limits)
    if isinstance(picture, Image.Image):
        with _refusals("the picture"):
            return _read_pixels(picture, "the picture", limits)
    if isinstance(picture, PictureFile):
        name, file = picture.name, without_notes(picture.data)
    else:
        name, data = _read(picture, limits)
        file = without_notes(data)
        del data
    check_pieces(file, name)
    with _refusals(name):
        return _decode(_identify(file, name, limits), file, name, limits)


def upright_size(picture: bytes, limits: PictureLimits | None = None) -> tuple[int, int]:
    """(width, height) of a picture's file as it is shown, EXIF orientation applied; of its pixels
    none is decoded. Raises `PictureError` as `open_picture`, as far as it is about the header."""
    name, file = "the picture", without_notes(picture)
    with _refusals(name):
        image = _identify(file, name, limits or PictureLimits())
        width, height = image.size
        orientation = orientation_in({**image.info, **file.info})
        if image.format == "TIFF":  # whose size some versions of Pillow turn, and some do not
            tags = dict(image.tag_v2)  # type: ignore[attr-defined]
            width, height = (tags[name] for name in (_TAGS.ImageWidth, _TAGS.ImageLength))
            orientation = tags.get(_TAGS.Orientation, 1)
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def whole_size(image: Image.Image) -> tuple[int, int] | None:
    """(width, height) of the picture that `open_picture` read at a fraction of its size; None where
    it read all of its pixels."""
    size = image.info.get(_WHOLE_SIZE)
    return size if isinstance(size, tuple) else None


def _read_pixels(image: Image.Image, name: str, limits: PictureLimits) -> Image.Image:
    """Of an image whose pixels are somebody else's."""
    check_size(image, name, limits)
    if image.mode == "RGB" and whole_size(image):  # comes from here
        return image
    orientation = orientation_of(image)
    reading = how_to_read(image, None, name, limits, turned=orientation != 1)
    made = upright_rgb(image, orientation, reduction=reading.reduction)
    return _named(made, image.size if reading.reduction > 1 else None)


def _decode(image: Image.Image, file: BareFile, name: str, limits: PictureLimits) -> Image.Image:
    check_size(image, name, limits)
    check_work(image, file, name)
    # Pillow turns a TIFF file while it loads it.
    notes: dict[Any, Any] = {**image.info, **file.info}
    orientation = 1 if image.format == "TIFF" else orientation_in(notes)
    reading = how_to_read(image, file, name, limits, turned=orientation != 1)
    size = image.size
    if reading.scale > 1:
        image.draft(None, (image.width // reading.scale, image.height // reading.scale))
    made = upright_rgb(image, orientation, reduction=reading.reduction, consume=True)
    whole = size if reading.scale * reading.reduction > 1 else None
    return _named(made, whole)


def _named(image: Image.Image, whole: tuple[int, int] | None) -> Image.Image:
    if whole is not None:
        image.info[_WHOLE_SIZE] = whole
    return image


def decoder_errors(
    name: str, damaged: Callable[[str], PictureError]
) -> AbstractContextManager[None]:
    """Whatever a decoder raises, as a refusal: want of memory, or what ``damaged`` makes of one
    line."""
    full = PictureError(f"there is not enough memory to read {name}", advice="scale it down")
    return library_errors(damaged, full)


def _refusals(name: str) -> AbstractContextManager[None]:
    return decoder_errors(
        name,
        lambda reason: PictureError(
            f"{name} is damaged or truncated ({reason})", advice="give the whole picture"
        ),
    )


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


def _identify(file: BareFile, name: str, limits: PictureLimits) -> Image.Image:
    """Read the header only; pixels are decoded when they are first read."""
    try:
        with _pillow_limit(limits.max_pixels):
            try:
                return Image.open(io.BytesIO(file.data), formats=tuple(COMMON))
            except UnidentifiedImageError:
                Image.init()  # registers the rest, as far as this build of Pillow has them
                rare = [kind for kind in RARE if kind in Image.OPEN]
                return Image.open(io.BytesIO(file.data), formats=rare)
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has over {2 * limits.max_pixels} pixels, the limit is {limits.max_pixels}",
            advice="scale it down",
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise PictureError(
            f"{name} is not a picture this can read",
            advice="give JPEG, PNG, WebP, GIF, BMP or TIFF",
        ) from error


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
                f"{name[:80]} is not a file, and nothing is fetched",
                advice="download the picture and give its path",
            )
        stream, size = open_regular(name, "picture")
        with stream, _refusals(name):
            if size > limits.max_bytes:
                raise _too_large(name, limits)
            data = stream.read(limits.max_bytes + 1)
    if not data:
        raise PictureError(f"{name} is empty", advice="give a picture file")
    if len(data) > limits.max_bytes:
        raise _too_large(name, limits)
    return name, data


def _too_large(name: str, limits: PictureLimits) -> PictureError:
    return PictureError(
        f"{name} has more than {limits.max_bytes} bytes, the limit", advice="give a smaller file"
    )


def _from_array(array: npt.NDArray[np.uint8], limits: PictureLimits) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    ):
        raise PictureError(
            f"an array of {array.dtype} {array.shape} is not a picture",
            advice="give uint8 (height, width, 1|3|4)",
        )
    height, width = array.shape[:2]
    if not 0 < height * width <= limits.max_pixels:
        raise PictureError(
            f"the array has {width}x{height} pixels", expected=f"1 to {limits.max_pixels}"
        )
    return Image.fromarray(array)
