"""Pictures of every kind come out upright in RGB; what is none, or too much, is refused by name."""

import contextlib
import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from pocketvlm import PocketVLMError
from pocketvlm.media.pictures import PictureLimits, open_picture, upright_size
from support.picture_files import encoded, png_chunk


@pytest.fixture
def photo():
    ramp = np.linspace(0, 255, 24 * 36 * 3).reshape(24, 36, 3)
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG", "PPM", "JPEG2000"])
def test_formats(photo, fmt, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(encoded(photo, fmt))
    expected = np.asarray(Image.open(path).convert("RGB"))
    for source in (path, str(path), path.read_bytes()):
        opened = open_picture(source)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(open_picture(data)), np.asarray(expected))
    if orientation == 6:  # turned by a quarter: a camera held upright
        assert open_picture(data).size == (24, 36)


def test_transparency_is_composited_onto_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert np.asarray(open_picture(image)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    palette = image.convert("RGB").quantize(4)
    transparent = open_picture(encoded(palette, "PNG", transparency=palette.getpixel((1, 0))))
    assert transparent.getpixel((1, 0)) == (255, 255, 255)


def test_16_bit_samples_keep_their_upper_byte():
    samples = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    opened = np.asarray(open_picture(encoded(Image.fromarray(samples), "PNG")))
    assert opened[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_an_animation_gives_its_first_frame(photo):
    frames = [photo, ImageOps.invert(photo)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(np.asarray(open_picture(data)), np.asarray(photo))


def test_cmyk(photo):
    data = encoded(photo.convert("CMYK"), "TIFF")
    np.testing.assert_array_equal(
        np.asarray(open_picture(data)), np.asarray(photo.convert("CMYK").convert("RGB"))
    )


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays(shape):
    array = np.full(shape, 200, np.uint8)
    assert open_picture(array).size == (5, 4)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5, 3), np.float32), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 5, 3), np.uint8)],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(PocketVLMError, match="array"):
        open_picture(array)


def test_other_objects_are_refused():
    with pytest.raises(PocketVLMError, match="a picture is of type list: expected a path"):
        open_picture([1, 2])


def test_bad_files_are_refused_by_name(photo, tmp_path):
    whole = encoded(photo.resize((200, 200)), "PNG")
    bad = {
        "empty.png": (b"", "empty"),
        "text.png": (b"hello, I am no picture", "not a picture"),
        "truncated.png": (whole[: len(whole) // 2], "truncated"),
        "truncated.jpg": (encoded(photo.resize((200, 200)), "JPEG")[:-900], "truncated"),
        "header.png": (whole[:20], "picture"),
        "post.eps": (encoded(photo, "EPS"), "not a picture"),
    }
    for name, (data, reason) in bad.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(PocketVLMError, match=reason) as refusal:
            open_picture(path)
        assert name in str(refusal.value)
        assert "\n" not in str(refusal.value)
    with pytest.raises(PocketVLMError, match=r"missing\.png"):
        open_picture(tmp_path / "missing.png")
    with pytest.raises(PocketVLMError, match="directory"):
        open_picture(tmp_path)


def test_limits_hold_before_decoding(photo, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(encoded(photo, "PNG"))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PocketVLMError, match="36x24 pixels, the limit is 863"):
        open_picture(path, PictureLimits(max_pixels=863))
    with pytest.raises(PocketVLMError, match="more than 50 bytes"):
        open_picture(path, PictureLimits(max_bytes=50))


def test_a_decompression_bomb_is_refused_by_default():
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    data = encoded(Image.new("1", (1, 1)), "PNG")
    data = data[:8] + png_chunk(b"IHDR", header) + data[33:]
    with pytest.raises(PocketVLMError, match="has over 200000000 pixels, the limit is 100000000"):
        open_picture(data)


def test_the_callers_limit_counts_and_not_pillows(photo, monkeypatch, recwarn):
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 100
    )  # Pillow alone would refuse these 864 pixels
    data = encoded(photo, "PNG")
    assert open_picture(data).size == (36, 24)
    for limit, size in ((863, "36x24 pixels"), (431, "over 862 pixels")):
        with pytest.raises(PocketVLMError, match=f"has {size}, the limit is {limit}"):
            open_picture(data, PictureLimits(max_pixels=limit))
    assert Image.MAX_IMAGE_PIXELS == 100
    assert not recwarn.list


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes_never_raise_anything_else(photo, seed):
    rng = np.random.default_rng(seed)
    fmt = ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"][seed % 6]
    data = bytearray(encoded(photo, fmt))
    for at in rng.integers(0, len(data), 8):
        data[at] = rng.integers(0, 256)
    with contextlib.suppress(PocketVLMError):
        assert open_picture(bytes(data)).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_size_of_a_file_is_that_of_the_upright_picture(kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, kind, exif=exif)
    assert upright_size(stream.getvalue()) == open_picture(stream.getvalue()).size
