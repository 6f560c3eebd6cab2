"""Knows how an RGB image becomes pixel_values exactly as Hugging Face's CLIP image processor makes
them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import ArtifactError, PictureError

# OpenAI CLIP's statistics, which the processor falls back on where its configuration is silent.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_MAX_EDGE = 16_384  # a resize target beyond this is not a vision model's
_MAX_SQUARE = 10_000  # edge of a padded picture that is not resized: as many pixels as one may have
_MOST_PIXELS = 1 << 25  # that a model reads, twice the largest published limit
_PART_BYTES = 4 << 20  # of a padded picture


@dataclass(frozen=True)
class Preprocessor:
    """Pad, resize, centre crop, rescale, normalise; each step may be off.

    Attributes:
        pad_colour: (red, green, blue) of the square that the picture is put in the middle of; None
            is not padding.
        shortest_edge: target of the shorter edge in pixels, the aspect ratio kept; None resizes to
            ``resize_to``.
        resize_to: (height, width) in pixels, the aspect ratio ignored; None with ``shortest_edge``
            None means no resize.
        resample: Pillow's filter.
        crop_to: (height, width) of the centre crop, padded with black where the image is smaller;
            None means no crop.
        rescale_factor: multiplies the 8-bit samples; None leaves them.
        mean: subtracted a channel, and ``std`` divides; None for both means no normalisation.
        std: see ``mean``.
    """

    pad_colour: tuple[int, int, int] | None
    shortest_edge: int | None
    resize_to: tuple[int, int] | None
    resample: Image.Resampling
    crop_to: tuple[int, int] | None
    rescale_factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        kinds: Sequence[str],
        *,
        padding: Sequence[str] = (),
        whole: Sequence[str] = (),
    ) -> Self:
        """Read the configuration of an image processor.

        Args:
            config: preprocessor_config.json.
            kinds: image processors by their names, the one that a silent configuration means last.
            padding: those of them that pad to a square where ``do_pad`` says so.
            whole: those of them that cut nothing off.

        Raises:
            PocketVLMError: any other kind, or values that are damaged.
        """
        config = {
            key: value for key, value in config.items() if value is not None
        }  # null means the default
        kind = config.get("image_processor_type", kinds[-1])
        if kind not in kinds:
            raise ArtifactError(
                f"image processor {kind!r} is unknown to this runtime",
                expected=f"one of {', '.join(kinds)}",
                advice="update pocketvlm",
            )
        try:
            mean = _channels(config.get("image_mean") or _CLIP_MEAN)
            pads = (
                bool(config.get("do_pad")) and kind in padding
            )  # CLIP's pads a batch, one picture stays
            shortest_edge, resize_to = (
                _resize_target(config) if config.get("do_resize", True) else (None, None)
            )
            crops = config.get("do_center_crop", True) and kind not in whole
            crop = config.get("crop_size", 224) if crops else None
            normalise = config.get("do_normalize", True)
            return cls(
                pad_colour=_colour(mean) if pads else None,
                shortest_edge=shortest_edge,
                resize_to=resize_to,
                resample=Image.Resampling(config.get("resample", Image.Resampling.BICUBIC)),
                crop_to=None if crop is None else _height_width(crop),
                rescale_factor=float(config.get("rescale_factor", 1 / 255))
                if config.get("do_rescale", True)
                else None,
                mean=mean if normalise else None,
                std=_channels(config.get("image_std") or _CLIP_STD) if normalise else None,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(
                f"the preprocessor configuration is damaged ({error!r})", advice="export it again"
            ) from error

    def check_size(self, expected: tuple[int, int]) -> None:
        """Raise `PocketVLMError` where pictures do not come out as ``expected`` (height, width), or
        are blown up first.

        Where neither crop nor resize fixes the size it depends on the picture, and is checked with
        each.
        """
        made = self.crop_to or self.resize_to or expected
        if made != expected:
            raise ArtifactError(
                f"preprocessing makes {made[0]}x{made[1]} pixels, the vision graph reads "
                f"{expected[0]}x{expected[1]}",
                advice="export the artifact again",
            )
        largest = max(self.shortest_edge or 0, *(self.resize_to or (0,)))
        if largest > 4 * max(expected):  # processors resize to a little more than the crop
            raise ArtifactError(
                f"preprocessing resizes to {largest} pixels where the vision graph reads "
                f"{expected[0]}x{expected[1]}",
                advice="export the artifact again",
            )

    @property
    def base_size(self) -> tuple[int, int]:
        """(height, width) that a whole picture is squeezed into where it is one of several
        tiles."""
        if self.resize_to is not None:
            return self.resize_to
        edge = self.shortest_edge or (self.crop_to or (1,))[0]
        return edge, edge

    def resize_and_crop(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The pixels before normalising: uint8 (height, width, 3) of an RGB image."""
        if self.pad_colour is not None:
            edge = max(image.size)
            image = _resized_square(
                image, self.pad_colour, self._target((edge, edge)), self.resample
            )
        elif (size := self._target(image.size)) is not None:
            image = image.resize(size, self.resample)
        if self.crop_to is not None:
            image = _center_crop(image, self.crop_to)
        if image.width * image.height > _MOST_PIXELS:
            raise PictureError(
                f"a picture of {image.width}x{image.height} pixels is read without resizing by "
                "this model",
                expected=f"at most {_MOST_PIXELS}",
                advice="scale it down",
            )
        samples: npt.NDArray[np.uint8] = np.asarray(image)
        return samples

    def _target(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """(width, height) that a picture of that size is resized to; None where it is not."""
        if self.shortest_edge is not None:
            return _keep_aspect(size, self.shortest_edge)
        return None if self.resize_to is None else self.resize_to[::-1]

    def __call__(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """``pixel_values`` float32 (3, height, width) of an RGB image, as from
        `pocketvlm.media.pictures.open_picture`."""
        return self.normalised(self.resize_and_crop(image))

    def normalised(self, samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """``pixel_values`` float32 (3, height, width) of pixels uint8 (height, width, 3) that are
        neither resized nor cut."""
        height, width = samples.shape[:2]
        values = self._values()
        pixels = np.empty((3, height, width), np.float32)
        for channel in range(3):
            # "clip" changes nothing of 8-bit indices; "raise" would need a copy of the result.
            np.take(values[channel], samples[:, :, channel], out=pixels[channel], mode="clip")
        return pixels

    def _values(self) -> npt.NDArray[np.float32]:
        """What each sample of each channel becomes: float32 (3, 256).

        Computed once for 256 samples, so that a large picture never lies in memory as float64.
        """
        values = np.tile(np.arange(256, dtype=np.float32), (3, 1))
        if self.rescale_factor is not None:
            # In float64 and back, as transformers does: float32 throughout differs in the last bit.
            values = (values.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.mean is not None and self.std is not None:
            values -= np.array(self.mean, dtype=np.float32)[:, None]
            values /= np.array(self.std, dtype=np.float32)[:, None]
        return values


def _resize_target(config: Mapping[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    """``size`` as (shortest_edge, None) or (None, (height, width)); an old plain number is a
    shortest edge."""
    size = config.get("size", {"shortest_edge": 224})
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if not isinstance(size, Mapping):
        raise TypeError(f"size {size!r}")
    if size.get("longest_edge") or size.get("max_height"):
        raise ValueError(f"size {dict(size)}: only shortest_edge, or height and width")
    if "shortest_edge" in size:
        return _edge(size["shortest_edge"]), None
    return None, _height_width(size)


def _height_width(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return _edge(size), _edge(size)
    return _edge(size["height"]), _edge(size["width"])


def _edge(value: Any) -> int:
    if not isinstance(value, int) or not 1 <= value <= _MAX_EDGE:
        raise ValueError(f"an edge of {value!r} pixels")
    return value


def _channels(values: Any) -> tuple[float, ...]:
    channels = (
        (float(values),) * 3
        if isinstance(values, (int, float))
        else tuple(float(v) for v in values)
    )
    if len(channels) != 3:
        raise ValueError(f"{len(channels)} channel statistics instead of 3")
    return channels


def _colour(mean: tuple[float, ...]) -> tuple[int, int, int]:
    """The mean as 8-bit samples, cut to integers as LlavaImageProcessor does."""
    red, green, blue = (int(value * 255) for value in mean)
    if not all(0 <= sample <= 255 for sample in (red, green, blue)):
        raise ValueError(f"do_pad with image_mean {mean}")
    return red, green, blue


def _resized_square(
    image: Image.Image,
    colour: tuple[int, int, int],
    size: tuple[int, int] | None,
    resample: Image.Resampling,
) -> Image.Image:
    """The picture in the middle of a square of one colour, resized to ``size`` (width, height).

    The square of a large picture is never there as a whole. Pillow resizes rows first, and their
    8-bit result by columns, so some rows at a time give the same pixels.
    """
    edge, (width, height) = max(image.size), image.size
    left, top = (edge - width) // 2, (edge - height) // 2
    rows = edge if size is None else max(_PART_BYTES // (4 * edge), 1)
    if size is None and edge > _MAX_SQUARE:
        raise PictureError(
            f"a picture of {width}x{height} pixels is too large to be padded", advice="crop it"
        )
    across = edge if size is None else size[0]
    narrow = Image.new("RGB", (across, edge), colour)
    for start in range(top, top + height, rows):
        end = min(start + rows, top + height)
        part = Image.new("RGB", (edge, end - start), colour)
        part.paste(image.crop((0, start - top, width, end - top)), (left, 0))
        narrow.paste(part.resize((across, end - start), resample), (0, start))
    return narrow if size is None else narrow.resize(size, resample)


def _keep_aspect(size: tuple[int, int], shortest_edge: int) -> tuple[int, int]:
    """(width, height) with the shorter edge at the target; the longer one is cut to an integer, not
    rounded."""
    width, height = size
    longest = int(shortest_edge * max(size) / min(size))
    if longest > _MAX_EDGE:
        raise PictureError(
            f"a picture of {width}x{height} pixels is too narrow", advice="crop it first"
        )
    return (shortest_edge, longest) if width <= height else (longest, shortest_edge)


def _center_crop(image: Image.Image, crop: tuple[int, int]) -> Image.Image:
    """Cut, or padded with black, to ``crop`` (height, width); an odd remainder goes as in
    transformers.

    transformers pads with ceil((new - old) / 2) on the top and left, and cuts at floor((old - crop)
    / 2). Where one edge is padded and the other cut, both rules apply.
    """
    width, height = image.size
    padded_to = (max(crop[0], height), max(crop[1], width))
    fits = crop[0] <= height and crop[1] <= width
    top_pad, left_pad = (
        (0, 0)
        if fits
        else (math.ceil((padded_to[0] - height) / 2), math.ceil((padded_to[1] - width) / 2))
    )
    top = (height - crop[0]) // 2 + top_pad
    left = (width - crop[1]) // 2 + left_pad
    bottom, right = min(top + crop[0], padded_to[0]), min(left + crop[1], padded_to[1])
    # In the picture's own coordinates; Pillow fills what lies beyond with black.
    return image.crop(
        (max(0, left) - left_pad, max(0, top) - top_pad, right - left_pad, bottom - top_pad)
    )
