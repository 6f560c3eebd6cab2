"""Knows LFM2-VL's image processor on Pillow: transformers has it for torchvision only.

It is registered with `AutoImageProcessor`, so that the checkpoint's settings are read, and the
parity gate compares pixels, as with every other family. Resizing, scaling and normalising are those
of transformers' Pillow backend. Sizes, tiles and patches are computed again here, and compared with
vectors of the class itself in the tests. torchvision's resize of 8-bit samples differs from
Pillow's by one level in up to 2 % of them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import AutoImageProcessor, Lfm2VlConfig
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import is_torchvision_available

Floats = npt.NDArray[np.float32]


class Lfm2VlImageSettings(ImagesKwargs, total=False):  # type: ignore[call-arg] # a TypedDict
    """What the processor takes beside the settings of every image processor."""

    downsample_factor: int
    do_image_splitting: bool
    min_tiles: int
    max_tiles: int
    use_thumbnail: bool
    min_image_tokens: int
    max_image_tokens: int
    encoder_patch_size: int
    tile_size: int
    max_pixels_tolerance: float
    do_pad: bool
    return_row_col_info: bool


class Lfm2VlImageProcessor(PilBackend):
    """Pictures as rows of patches, by transformers' names.

    ``pixel_values`` float32 (pictures or tiles, patches, patch x patch x 3), with ``do_pad`` filled
    up to one number of patches. ``pixel_attention_mask`` int32 (..., patches); ``spatial_shapes``
    int64 (..., 2), rows and columns of patches.
    """

    downsample_factor = 2
    do_image_splitting = True
    min_tiles = 2
    max_tiles = 10
    use_thumbnail = True
    min_image_tokens = 64
    max_image_tokens = 256
    encoder_patch_size = 16
    tile_size = 512
    max_pixels_tolerance = 2.0
    do_resize = True
    size = {"height": 512, "width": 512}  # noqa: RUF012 # as all of these classes state it
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_pad = True
    do_convert_rgb = True
    return_row_col_info = False
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    valid_kwargs = Lfm2VlImageSettings
    model_input_names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")

    def _preprocess(
        self,
        images: Sequence[npt.NDArray[Any]],
        resample: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        do_pad: bool,
        return_tensors: Any,
        return_row_col_info: bool,
        encoder_patch_size: int,
        **settings: Any,
    ) -> BatchFeature:
        edge = encoder_patch_size
        rows, columns, sizes, values, shapes = [], [], [], [], []
        for image in images:
            parts, grid, size = self._parts(image, resample, edge, settings)
            rows.append(grid[0])
            columns.append(grid[1])
            sizes.append(list(size))
            for part in parts:
                scaled = self.rescale(part, rescale_factor) if do_rescale else part
                normal = self.normalize(scaled, image_mean, image_std) if do_normalize else scaled
                values.append(patches_of(np.asarray(normal, np.float32), edge))
                shapes.append([part.shape[1] // edge, part.shape[2] // edge])
        data: dict[str, Any] = {"pixel_values": values}
        if do_pad:
            most = max_patches(edge, settings)
            masks = [np.arange(most) < len(value) for value in values]
            data["pixel_values"] = np.stack([_filled(value, most) for value in values])
            data["pixel_attention_mask"] = np.stack(masks).astype(np.int32)
            data["spatial_shapes"] = np.array(shapes, dtype=np.int64)
        if return_row_col_info:
            data |= {"image_rows": rows, "image_cols": columns, "image_sizes": sizes}
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _parts(
        self, image: npt.NDArray[Any], resample: Any, edge: int, settings: dict[str, Any]
    ) -> tuple[list[npt.NDArray[Any]], tuple[int, int], tuple[int, int]]:
        """What the tower reads of a picture (3, H, W), rows and columns of its tiles, and (height,
        width) of the whole picture as it is read."""
        factor = edge * settings["downsample_factor"]
        least, most = (settings[f"{name}_image_tokens"] * factor**2 for name in ("min", "max"))
        size = _whole_size(image.shape[1], image.shape[2], factor, least, most)
        whole = self.resize(image, SizeDict(height=size[0], width=size[1]), resample=resample)
        tiles = settings["min_tiles"], settings["max_tiles"]
        near = [max(edge, round(side / factor) * factor) for side in image.shape[1:]]
        large = near[0] * near[1] > most * settings["max_pixels_tolerance"]
        if not large or not settings["do_image_splitting"] or tiles == (1, 1):
            return [whole], (1, 1), size
        side = settings["tile_size"]
        rows, columns = _nearest_grid(image.shape[1], image.shape[2], side, *tiles)
        canvas = SizeDict(height=rows * side, width=columns * side)
        resized = self.resize(image, canvas, resample=resample)
        parts = [
            resized[:, y : y + side, x : x + side]
            for y in range(0, rows * side, side)
            for x in range(0, columns * side, side)
        ]
        if settings["use_thumbnail"] and rows * columns != 1:
            parts.append(whole)
        return parts, (rows, columns), size


def max_patches(edge: int, settings: dict[str, Any]) -> int:
    """Return how many patches a picture or tile is filled up to."""
    of_tile = (settings["tile_size"] // edge) ** 2 if settings["do_image_splitting"] else 0
    of_whole: int = settings["max_image_tokens"] * settings["downsample_factor"] ** 2
    return max(of_whole, of_tile)


def patches_of(pixels: Floats, edge: int) -> Floats:
    """(3, H, W) -> (patches, edge x edge x 3), row by row, the colours of a pixel side by side."""
    rows, columns = (length // edge for length in pixels.shape[1:])
    squares = pixels.reshape(3, rows, edge, columns, edge).transpose(1, 3, 2, 4, 0)
    return squares.reshape(rows * columns, -1)


def picture_of(patches: Floats, rows: int, columns: int) -> Floats:
    """The picture (3, H, W) that `patches_of` made so many rows and columns of."""
    edge = math.isqrt(patches.shape[1] // 3)
    squares = patches[: rows * columns].reshape(rows, columns, edge, edge, 3)
    return squares.transpose(4, 0, 2, 1, 3).reshape(3, rows * edge, columns * edge)


def _filled(patches: Floats, most: int) -> Floats:
    filled = np.zeros((most, patches.shape[1]), dtype=np.float32)
    filled[: len(patches)] = patches
    return filled


def _whole_size(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """(height, width) in multiples of ``factor`` pixels with an area within the limits."""
    tall, wide = (max(factor, round(edge / factor) * factor) for edge in (height, width))
    if tall * wide > most:
        shrink = math.sqrt(height * width / most)
        tall, wide = (
            max(factor, math.floor(edge / shrink / factor) * factor) for edge in (height, width)
        )
    elif tall * wide < least:
        grow = math.sqrt(least / (height * width))
        tall, wide = (math.ceil(edge * grow / factor) * factor for edge in (height, width))
    return tall, wide


def _nearest_grid(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """Rows and columns of the tiles whose proportions are nearest to a picture's. Of several as
    near it is the last, by number of tiles, that is less than twice as large as the picture."""
    every = {
        (columns, rows)
        for tiles in range(least, most + 1)
        for columns in range(1, tiles + 1)
        for rows in range(1, tiles + 1)
        if least <= columns * rows <= most
    }
    best, nearest = (1, 1), float("inf")
    for columns, rows in sorted(every, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width / height - columns / rows)
        if distance < nearest:
            best, nearest = (rows, columns), distance
        elif distance == nearest and height * width > 0.5 * side**2 * columns * rows:
            best = (rows, columns)
    return best


# transformers checks what it has already, which without torchvision is not a class.
_BACKENDS = ("pil",) if is_torchvision_available() else ("pil", "torchvision")
AutoImageProcessor.register(
    Lfm2VlConfig,
    image_processor_classes=dict.fromkeys(_BACKENDS, Lfm2VlImageProcessor),
    exist_ok=True,
)
