"""Notes beside the pixels (EXIF, XMP, profiles, comments) turn a picture and do no more, whatever
is in them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pocketvlm.media.pictures import open_picture
from support.picture_files import encoded, jpeg_with, photograph, png_with

ORIENTATION, GPS = 0x0112, 0x8825
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def exif(orientation=1, *further: tuple[int, int, int, bytes]) -> bytes:
    """EXIF with an orientation and further entries (tag, type, count, 4 bytes)."""
    entries = [(ORIENTATION, 3, 1, struct.pack(">HH", orientation, 0)), *further]
    packed = b"".join(struct.pack(">HHI4s", *entry) for entry in sorted(entries))
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + packed + bytes(4)


@pytest.fixture(scope="module")
def photo():
    return photograph()


def carriers(photo, orientation: int) -> dict[str, bytes]:
    """The ways in which a file states its orientation."""
    notes, xmp = exif(orientation), XMP.format(orientation).encode()
    raw = b"\nexif\n%8d\n%s\n" % (len(notes), notes.hex().encode())
    profile = b"Raw profile type exif\0"
    text = b"XML:com.adobe.xmp\0"
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return {
        "jpeg": encoded(photo, "JPEG", exif=notes),
        "jpeg in two": jpeg_with(photo, (0xE1, notes[:20]), (0xE1, b"Exif\0\0" + notes[20:])),
        "jpeg xmp": jpeg_with(photo, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)),
        "png": png_with(photo, (b"eXIf", notes[6:])),
        "png after the pixels": png_with(photo, (b"eXIf", notes[6:]), last=True),
        "png text": png_with(photo, (b"tEXt", profile + raw)),
        "png compressed text": png_with(photo, (b"zTXt", profile + b"\0" + zlib.compress(raw))),
        "png xmp": png_with(photo, (b"iTXt", text + b"\0\0\0\0" + xmp)),
        "png compressed xmp": png_with(photo, (b"iTXt", text + b"\1\0\0\0" + zlib.compress(xmp))),
        "webp": encoded(photo, "WEBP", lossless=True, exif=notes),
        "tiff": encoded(photo, "TIFF", exif=tags),
        "avif": encoded(photo, "AVIF", exif=notes),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_to_state_an_orientation_counts_as_it_does_for_pillow(photo, orientation):
    for name, data in carriers(photo, orientation).items():
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        np.testing.assert_array_equal(open_picture(data), expected, err_msg=name)


ODD = {
    "an entry of no type": (0x010F, 0, 1, b"abcd"),
    "an entry of an unknown type": (0x010F, 99, 1, b"abcd"),
    "text that is a number": (0x010F, 12, 1, b"\0\0\0\x08"),
    "a number that is text": (0x0100, 2, 4, b"\xff\xfe\0\0"),
    "an entry beyond the file": (0x8298, 2, 1 << 30, b"\xff\xff\xff\xff"),
    "rational without end": (0x011A, 5, 1, b"\0\0\0\x01"),
    "a list of GPS tags that is none": (GPS, 4, 1, b"\xff\0\0\0"),
    "a list of GPS tags that is text": (GPS, 2, 4, b"abcd"),
    "a list of EXIF tags in itself": (0x8769, 4, 1, b"\0\0\0\x08"),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_entry_of_exif_changes_nothing(photo, odd):
    for fmt in ("JPEG", "PNG", "WEBP"):
        plain, notes = (encoded(photo, fmt, exif=exif(6, *more)) for more in ((), (odd,)))
        np.testing.assert_array_equal(open_picture(notes), open_picture(plain), err_msg=fmt)


@pytest.mark.parametrize("kind", [0, 3, 4, 5, 12, 13, 99])
def test_an_odd_entry_in_an_avif_file_changes_nothing(photo, kind):
    maker = struct.pack(">HH", 0x010F, 2)
    plain = encoded(photo, "AVIF", exif=exif(6, (0x010F, 2, 4, b"abc\0")))
    assert maker in plain
    odd = plain.replace(maker, struct.pack(">HH", 0x010F, kind))
    np.testing.assert_array_equal(open_picture(odd), open_picture(plain))


@pytest.mark.parametrize("value", [0, 9, 255, 65_535])
def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(photo, value):
    for fmt in ("JPEG", "PNG", "WEBP"):
        data = encoded(photo, fmt, exif=exif(value))
        np.testing.assert_array_equal(open_picture(data), Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 7, 10, 11, 12, 13, 16])
def test_an_orientation_of_another_type_is_no_damage(photo, kind):
    tag = struct.pack(">HHI4s", ORIENTATION, kind, 1, b"\0\x06\0\0")
    notes = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + tag + bytes(4)
    for fmt in ("JPEG", "PNG", "WEBP"):
        assert open_picture(encoded(photo, fmt, exif=notes)).mode == "RGB"


def test_other_notes_of_a_jpeg_are_not_read(photo):
    plain = open_picture(encoded(photo, "JPEG"))
    for marker, note in [
        (0xE1, b"Exif\0\0"),
        (0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe\xff"),
        (0xE2, b"ICC_PROFILE\0\x01\x02not whole"),
        (0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"),
        (0xE2, b"MPF\0" + bytes(40)),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\0"),
        (0xFE, b"\xff" * 200),
    ]:
        np.testing.assert_array_equal(open_picture(jpeg_with(photo, (marker, note))), plain)


def test_other_notes_of_a_png_are_not_read(photo):
    large = zlib.compress(bytes(3 << 20), 9)
    for kind, note in [
        (b"iCCP", b"name\0\0" + large),
        (b"iCCP", b"no end of the name"),
        (b"zTXt", b"Comment\0\0" + large),
        (b"zTXt", b"Comment\0\0not compressed"),
        (b"zTXt", b"Raw profile type exif\0\0" + large),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 4\nno hex\n"),
        (b"iTXt", b"XML:com.adobe.xmp\0"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not compressed"),
        (b"pHYs", b"\0"),
        (b"gAMA", b""),
        (b"cHRM", b"\0\0"),
        (b"acTL", b"\0"),
        (b"fcTL", b"\0\0"),
        (b"eXIf", b"neither order"),
    ]:
        for data in (png_with(photo, (kind, note)), png_with(photo, (kind, note), checksum=False)):
            np.testing.assert_array_equal(open_picture(data), photo, err_msg=str(kind))


def test_a_tiff_file_is_read_without_what_lies_beside_its_first_picture(photo):
    data = bytearray(encoded(photo, "TIFF", exif=exif(1, (GPS, 4, 1, b"\xff\xff\xff\0"))))
    np.testing.assert_array_equal(open_picture(bytes(data)), photo)
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, 1 << 31)  # the next picture
    np.testing.assert_array_equal(open_picture(bytes(data)), photo)


def test_a_second_look_turns_nothing_again(photo):
    for orientation in range(1, 9):
        once = open_picture(encoded(photo, "PNG", exif=exif(orientation)))
        np.testing.assert_array_equal(open_picture(once), once)


def test_the_image_of_a_caller_is_left_alone(photo):
    image = photo.copy()
    tags = image.getexif()
    tags[ORIENTATION] = 6
    image.info["note"] = "mine"
    assert open_picture(image).size == photo.size[::-1]
    assert image.size == photo.size
    assert image.info["note"] == "mine"
    assert image.getexif()[ORIENTATION] == 6
