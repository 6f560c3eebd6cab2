"""What a picture takes is known before it is decoded: memory and work have bounds that hold."""

import contextlib
import io
import os
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pocketvlm import PictureLimits, PocketVLMError
from pocketvlm.errors import PictureError
from pocketvlm.media.pictures import open_picture, whole_size
from support.picture_files import encoded, large_png, many_scans, photograph, png_chunk

ROTATED = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # EXIF: a quarter turn
PEAK = """
import resource, sys
from PIL import Image
from pocketvlm import PictureLimits
from pocketvlm.layouts.single import tile_steps
from pocketvlm.media.pictures import open_picture, whole_size
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
Image.init()
config = {"image_processor_type": "LlavaImageProcessor", "do_pad": True,
          "size": {"shortest_edge": 336}, "crop_size": 336}
steps = tile_steps(config)
steps(open_picture(b"P6 1 1 255\\nabc"))
with open(sys.argv[1], "rb") as file:
    size = len(file.read())
before = peak()
image = open_picture(sys.argv[1], PictureLimits(max_memory=int(sys.argv[2])))
steps(image)
print(peak() - before - size, *image.size, *(whole_size(image) or ()))
"""


def peak_of(data: bytes, path, max_memory: int) -> list[int]:
    """Bytes that reading and preprocessing a picture take at the most, beside its file; its size,
    and that of the whole picture where it was read smaller."""
    path.write_bytes(data)
    command = [sys.executable, "-c", PEAK, str(path), str(max_memory)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(word) for word in out.split()]


KEYED = png_chunk(b"PLTE", bytes(6)) + png_chunk(b"tRNS", b"\0\x80")


@pytest.mark.parametrize(
    ("colours", "depth", "chunks"), [(3, 8, KEYED), (0, 16, b"")], ids=["palette", "16 bits"]
)
def test_a_picture_takes_6_bytes_a_pixel(tmp_path, colours, depth, chunks):
    data = large_png(4000, 3000, colours, depth=depth, chunks=chunks)
    peak, *size = peak_of(data, tmp_path / "large", 6 * 12_000_000)
    assert size == [4000, 3000]
    assert peak <= 6 * 12_000_000 + (16 << 20)  # parts of it and the tile


def test_a_picture_that_takes_more_is_read_smaller_and_says_so(tmp_path):
    data = large_png(6050, 6000, 6, chunks=png_chunk(b"eXIf", ROTATED))
    peak, *size = peak_of(data, tmp_path / "large", 6 * 36_300_000)
    assert size == [3000, 3025, 6050, 6000]
    assert peak <= 6 * 36_300_000


def test_what_was_read_smaller_is_known_when_it_is_read_again():
    data = large_png(6050, 6000, 0)
    image = open_picture(data, PictureLimits(max_memory=80_000_000))
    assert image.size == (3025, 3000)
    assert whole_size(open_picture(image)) == (6050, 6000)


def test_a_jpeg_of_less_than_36_megapixels_is_never_read_smaller():
    data = encoded(Image.new("L", (6000, 5000)), "JPEG")
    with pytest.raises(PictureError, match=r"6000x5000 pixels of JPEG, takes at least .* MB"):
        open_picture(data, PictureLimits(max_memory=60_000_000))
    assert whole_size(open_picture(data)) is None


@pytest.mark.parametrize("fmt", ["WEBP", "AVIF", "JPEG2000"])
def test_what_a_decoder_keeps_beside_the_picture_counts(fmt):
    data = encoded(photograph(100, 100), fmt)
    assert open_picture(data).size == (100, 100)
    with pytest.raises(PictureError, match=f"pixels of {fmt}, takes"):
        open_picture(data, PictureLimits(max_memory=100_000))


def test_a_tile_larger_than_its_picture_counts():
    data = bytearray(encoded(photograph(), "TIFF", compression="tiff_lzw"))
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    for at in range(first + 2, first + 2 + 12 * count, 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (278, 273, 279):  # rows per strip and where strips are become tiles
            new = {278: 323, 273: 324, 279: 325}[tag]
            struct.pack_into("<HHII", data, at, new, 4, 1, 1 << 20)
    with pytest.raises(PocketVLMError):
        open_picture(bytes(data))


@pytest.mark.parametrize("size", [(1, 99_999_999), (65_536, 1), (1, 65_536)])
def test_a_side_has_a_limit(size):
    width, height = size
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", b"")
    with pytest.raises(PictureError, match="the limit of a side is 65535"):
        open_picture(data)


def test_scans_have_a_limit_that_depends_on_the_pixels():
    assert open_picture(many_scans(64, 48, 100)).size == (64, 48)
    with pytest.raises(PictureError, match="506 scans of 64x48 pixels: expected at most 500"):
        open_picture(many_scans(64, 48, 500))
    with pytest.raises(PictureError, match=r"206 scans .* expected at most 111 for its size"):
        open_picture(many_scans(6000, 6000, 200))


def test_scans_behind_the_end_of_the_picture_do_not_count():
    data = encoded(photograph(), "JPEG")
    assert open_picture(data + many_scans(64, 48, 600)).size == (36, 24)


def test_further_pictures_are_not_looked_at():
    photo = photograph()
    frame = encoded(photo, "GIF")
    assert open_picture(frame[:-1] + frame[frame.index(b",") : -1] * 20_000 + b";").size == (36, 24)
    tiff = encoded(photo, "TIFF")
    (first,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, first)
    directory, data = tiff[first : first + 2 + 12 * count], bytearray(tiff)
    struct.pack_into("<I", data, first + 2 + 12 * count, len(data))
    for _ in range(20_000):
        data += directory + struct.pack("<I", len(data) + len(directory) + 4)
    np.testing.assert_array_equal(open_picture(bytes(data)), photo)


def with_pieces(fmt: str, piece: bytes) -> bytes:
    """A file with very many pieces before its pixels."""
    data = encoded(photograph(), fmt)
    at = {"PNG": 33, "JPEG": 2, "JPEG2000": 32, "PPM": 3}.get(fmt, 13)
    at += 3 * 2 ** ((data[10] & 7) + 1) if fmt == "GIF" else 0  # its colours
    return data[:at] + piece * 200_001 + data[at:]


@pytest.mark.parametrize(
    ("fmt", "piece"),
    [
        ("PNG", png_chunk(b"tEXt", b"a\0b")),
        ("JPEG", b"\xff\xfe\0\2"),
        ("JPEG", b"\xff"),
        ("GIF", b"!\xfe\0"),
        ("GIF", b"\0"),
        ("GIF", b"!\xfe" + b"\1a" * 3 + b"\0"),
        ("PPM", b"#\n"),
        ("PPM", b" "),
        ("JPEG2000", b"\0\0\0\x08free"),
    ],
    ids=repr,
)
def test_a_file_in_endless_pieces_is_refused_before_it_is_opened(monkeypatch, fmt, piece):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(PictureError, match="more than 200000 pieces"):
        open_picture(with_pieces(fmt, piece))


@pytest.mark.parametrize("fmt", ["GIF", "PPM", "JPEG2000"])
def test_some_pieces_are_read(fmt):
    photo = photograph()
    piece = {"GIF": b"!\xfe\1a\0", "PPM": b"# note\n", "JPEG2000": b"\0\0\0\x08free"}[fmt]
    data = with_pieces(fmt, piece).replace(piece * 200_001, piece * 50)
    np.testing.assert_array_equal(open_picture(data), open_picture(encoded(photo, fmt)))


@pytest.mark.parametrize(
    "head", [b"P3 1500 1000 255\n", b"P6 1500 1000 100\n", b"P2 3000 1500 9\n"]
)
def test_variants_that_python_decodes_are_limited_to_8_megabytes(head):
    with pytest.raises(PictureError, match="a variant of PPM that is slow to read"):
        open_picture(head + b"1 " * (5 << 20))


def test_a_large_picture_inside_an_icon_is_refused():
    inside = large_png(2000, 2000, 0)
    head = struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inside), 22)
    with pytest.raises(PictureError, match="more pixels than an icon"):
        open_picture(head + inside)


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4\n", b"8BPS\0\1", b"icns", b"SIMPLE  ="]
)
def test_formats_outside_of_the_list_are_no_pictures(start):
    with pytest.raises(PictureError, match="is not a picture this can read"):
        open_picture(start + bytes(500))


def test_pipes_devices_and_sockets_are_refused_before_they_are_opened(tmp_path):
    pipe, end = tmp_path / "pipe.png", tmp_path / "socket.png"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(end))
        for name in (pipe, end, "/dev/zero"):
            with pytest.raises(PictureError, match="pipe, socket or device, not a file"):
                open_picture(name)


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), RecursionError(), KeyError(1)])
def test_whatever_a_decoder_raises_is_a_refusal(monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    data = encoded(photograph(), "PNG")
    for owner, name in ((Image, "open"), (Image.Image, "load")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(PictureError) as refusal:
                open_picture(data)
            assert "\n" not in str(refusal.value)


def test_ctrl_c_is_no_damage(monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_picture(encoded(photograph(), "PNG"))


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, or with some bytes changed, taken out or put in."""
    changed, way = bytearray(data), rng.integers(4)
    at = int(rng.integers(1, len(data)))
    if way == 0:
        return bytes(changed[:at])
    if way == 1:
        del changed[at : at + int(rng.integers(1, 40))]
    elif way == 2:
        changed[at:at] = rng.bytes(int(rng.integers(1, 40)))
    else:
        for place in rng.integers(0, len(data), 4):
            changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.mark.parametrize(
    "fmt", ["PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "MPO"]
)
def test_a_damaged_file_is_read_or_refused(fmt):
    rng, data = np.random.default_rng(0), encoded(photograph(32, 32), fmt)
    limits = PictureLimits(max_pixels=1_000_000, max_memory=100_000_000)
    for _ in range(12):
        with contextlib.suppress(PocketVLMError):
            assert open_picture(damaged(data, rng), limits).mode == "RGB"


def test_damage_of_an_image_that_a_caller_opened_is_a_refusal():
    data = encoded(photograph(200, 200), "PNG")
    with pytest.raises(PictureError, match="damaged or truncated"):
        open_picture(Image.open(io.BytesIO(data[:-60])))
