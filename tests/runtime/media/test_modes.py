"""Every mode, depth and transparency against transformers' ``convert_to_rgb``, and the list of what
is meant to differ."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from pocketvlm import PocketVLMError
from pocketvlm.media.pictures import open_picture
from support.picture_files import encoded, photograph, png_of_samples

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "F")
KEYS = (None, 0, 100, 255, (100, 80, 30), b"\0\x80\xff")


def reference(image: Image.Image) -> np.ndarray:
    return convert_to_rgb(image, return_numpy=True)


def of_mode(mode: str) -> Image.Image:
    samples = np.random.default_rng(1).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    if mode == "P":
        return Image.fromarray(samples[:, :, :3]).quantize(16)
    if mode == "PA":
        return of_mode("P").convert("PA")
    bands = Image.getmodebands(mode)
    layers = [Image.fromarray(samples[:, :, band].copy()) for band in range(bands)]
    return layers[0].convert(mode) if bands == 1 else Image.merge(mode, layers)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_a_mode_is_read_as_transformers_reads_it(mode, key):
    image = of_mode(mode)
    if key is not None:
        image.info["transparency"] = key
    try:
        expected = reference(image.copy())
    except (TypeError, ValueError):  # a key that is none of this mode
        with pytest.raises(PocketVLMError):
            open_picture(image)
        return
    np.testing.assert_array_equal(open_picture(image), expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_greys_of_png_are_scaled_to_8_bits_and_their_key_is_compared_at_full_depth(depth):
    samples = np.arange(min(2**depth, 256)) * (257 if depth == 16 else 1)
    samples = np.append(samples, [256, 257, 4660]) if depth == 16 else samples
    eight_bits = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
    for key in (None, *samples[:: max(len(samples) // 9, 1)].tolist()):
        tag = b"" if key is None else struct.pack(">H", key)
        data = png_of_samples(samples[None, :, None], depth, 0, key=tag)
        expected = np.where(samples == key, 255, eight_bits)
        assert np.asarray(open_picture(data))[0, :, 0].tolist() == expected.tolist()
        if depth in (1, 8):  # of the others Pillow compares the key at another depth
            np.testing.assert_array_equal(open_picture(data), reference(opened(data)))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(("depth", "colours"), itertools.product([8, 16], [2, 4, 6]))
def test_colours_and_alpha_of_png_keep_their_upper_byte(depth, colours):
    channels = {2: 3, 4: 2, 6: 4}[colours]
    samples = np.random.default_rng(2).integers(0, 2**depth, (6, 5, channels))
    data = png_of_samples(samples, depth, colours)
    np.testing.assert_array_equal(open_picture(data), reference(opened(data)))


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_png_becomes_white(depth):
    samples = np.array([[[1, 2, 3], [4, 5, 6], [1, 2, 4]]]) * (257 if depth == 16 else 1)
    data = png_of_samples(samples, depth, 2, key=struct.pack(">3H", *samples[0, 0].tolist()))
    assert np.asarray(open_picture(data)).tolist() == [[[255] * 3, [4, 5, 6], [1, 2, 4]]]


@pytest.mark.parametrize("key", [b"", b"\0", b"\x80\0\xff", b"\xff" * 4])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_of_png(depth, key):
    count = min(2**depth, 4)
    palette = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])[: 3 * count]
    samples = np.arange(count)[None, :, None]
    data = png_of_samples(samples, depth, 3, key=key[:count], palette=palette)
    np.testing.assert_array_equal(open_picture(data), reference(opened(data)))


FILES = {
    "jpeg": lambda image: encoded(image, "JPEG"),
    "grey jpeg": lambda image: encoded(image.convert("L"), "JPEG"),
    "cmyk jpeg, inverted as Adobe does": lambda image: encoded(image.convert("CMYK"), "JPEG"),
    "progressive jpeg": lambda image: encoded(image, "JPEG", progressive=True),
    "gif with a transparent colour": lambda image: encoded(
        image.quantize(8), "GIF", transparency=3
    ),
    "animated gif": lambda image: encoded(
        image, "GIF", save_all=True, append_images=[image.rotate(180)]
    ),
    "animated png": lambda image: encoded(
        image, "PNG", save_all=True, append_images=[image.rotate(180)]
    ),
    "animated webp": lambda image: encoded(
        with_alpha(image), "WEBP", save_all=True, append_images=[image.rotate(180)]
    ),
    "webp": lambda image: encoded(with_alpha(image), "WEBP"),
    "avif": lambda image: encoded(with_alpha(image), "AVIF"),
    "tiff": lambda image: encoded(with_alpha(image), "TIFF", compression="tiff_lzw"),
    "tiff in cmyk": lambda image: encoded(image.convert("CMYK"), "TIFF"),
    "tiff in lab": lambda image: encoded(image.convert("RGB").convert("LAB"), "TIFF"),
    "tiff of floats": lambda image: encoded(image.convert("F"), "TIFF"),
    "tiff of bits": lambda image: encoded(image.convert("1"), "TIFF", compression="group4"),
    "several tiffs": lambda image: encoded(
        image, "TIFF", save_all=True, append_images=[image.rotate(180)]
    ),
    "bmp": lambda image: encoded(image, "BMP"),
    "bmp with alpha": lambda image: encoded(with_alpha(image), "BMP"),
    "bmp with a palette": lambda image: encoded(image.quantize(8), "BMP"),
    "ppm": lambda image: encoded(image, "PPM"),
    "jpeg 2000": lambda image: encoded(with_alpha(image), "JPEG2000"),
    "icon": lambda image: encoded(with_alpha(image), "ICO", sizes=[(16, 16), (24, 24)]),
    "icon of bitmaps": lambda image: encoded(
        with_alpha(image), "ICO", sizes=[(16, 16)], bitmap_format="bmp"
    ),
}


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(image.getchannel(1))
    return image


@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_a_file_is_read_as_transformers_reads_it(write):
    data = write(photograph())
    np.testing.assert_array_equal(open_picture(data), reference(opened(data)))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_meant_to_differ_greys_of_16_bits_keep_their_upper_byte(mode):
    image = Image.new(mode, (3, 1))
    for x, value in enumerate((255, 0x1234, 0xFFFF)):
        image.putpixel((x, 0), value)
    assert np.asarray(open_picture(image))[0, :, 0].tolist() == [0, 0x12, 255]
    assert reference(image.copy())[0, :, 0].tolist() == [255, 255, 255]
    image.info["transparency"] = 0x1234
    assert np.asarray(open_picture(image))[0, :, 0].tolist() == [0, 255, 255]


def test_meant_to_differ_wide_greys_are_16_bits_where_they_go_beyond_8():
    narrow, wide, dark = (np.array([[0, 100, most]], np.int32) for most in (255, 65_535, 200))
    for samples, expected in ((narrow, [0, 100, 255]), (wide, [0, 0, 255]), (dark, [0, 100, 200])):
        image = Image.fromarray(samples)
        assert np.asarray(open_picture(image))[0, :, 0].tolist() == expected
    file = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 100, 200)  # states its depth
    assert np.asarray(open_picture(file))[0, :, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("mode", "plain"), [("RGBa", "RGBA"), ("La", "LA")])
def test_meant_to_differ_premultiplied_alpha_is_transparency(mode, plain):
    image = of_mode(plain).convert(mode)
    np.testing.assert_array_equal(open_picture(image), open_picture(image.convert(plain)))


def test_meant_to_differ_the_band_a_of_lab_is_no_alpha():
    image = of_mode("LAB")
    assert "A" in image.getbands()
    np.testing.assert_array_equal(open_picture(image), image.convert("RGB"))


def test_meant_to_differ_alpha_in_a_palette_is_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 255], "RGBA")
    image.putpixel((1, 0), 1)
    assert np.asarray(open_picture(image)).tolist() == [[[255, 255, 255], [0, 255, 0]]]
