"""Pictures in plain JavaScript against Pillow and the runtime: no sample differs.

All cases of this file run in one process of Node.
"""

import io
import itertools

import numpy as np
import pytest
from PIL import ExifTags, Image

from pocketvlm.media.notes import orientation_in, without_notes
from pocketvlm.media.preprocessing import Preprocessor
from pocketvlm.media.upright import upright_rgb
from support.picture_files import jpeg_with, photograph
from support.web_modules import NODE, OLD_PILLOW, Cases

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(OLD_PILLOW, reason="older Pillow resizes some pictures otherwise"),
]

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
RNG = np.random.default_rng(11)
# (width, height) of a picture and of what it becomes: what rounding, borders and accumulated steps
# may trip over, then anything.
SIZES = [
    ((1, 1), (7, 5)),
    ((7, 5), (1, 1)),
    ((64, 48), (64, 12)),
    ((64, 48), (16, 48)),
    ((64, 48), (64, 48)),
    ((2, 3), (256, 384)),
    ((640, 3), (17, 200)),
    ((3, 640), (200, 17)),
    ((301, 199), (224, 224)),
    ((997, 31), (10, 30)),
    ((480, 360), (336, 252)),
    ((40, 90), (30, 69)),  # along columns first, since Pillow 13
    ((40, 90), (30, 70)),
    ((40, 90), (60, 89)),
    ((40, 90), (39, 87)),
    *(
        (tuple(RNG.integers(1, 130, 2).tolist()), tuple(RNG.integers(1, 130, 2).tolist()))
        for _ in range(30)
    ),
]


def noise(width, height, *, extreme=False):
    """Noise; of 0 and 255 alone where it is extreme, so that filters overshoot."""
    samples = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray((samples >> 7) * 255 if extreme else samples)


def config(**stated):
    """An image processor's configuration, of LLaVA's kind, which has every step."""
    return {"image_processor_type": "LlavaImageProcessor", **stated}


def height_width(height, width):
    return {"height": height, "width": width}


CONFIGS = [
    config(size=224, crop_size=224),
    config(size=20, crop_size=30),  # padded with black
    config(size=height_width(20, 30), crop_size=height_width(31, 16)),  # padded and cut
    config(size=height_width(33, 20), do_center_crop=False, resample=2),
    config(size=24, crop_size=24, do_pad=True, image_mean=[0.48, 0.45, 0.4], resample=1),
    config(size=height_width(28, 40), do_center_crop=False, do_pad=True, resample=3),
    config(do_resize=False, do_center_crop=False, do_pad=True),
    config(do_resize=False, crop_size=17, do_normalize=False),
    config(size=20, crop_size=20, do_rescale=False, do_normalize=False, resample=0),
    config(size=20, crop_size=20, rescale_factor=0.00784313725490196, image_std=[0.2, 0.25, 0.3]),
]
PICTURES = [(40, 30), (30, 40), (25, 25), (1, 60), (61, 7), (224, 150)]


def steps_of(preprocessor):
    """As using.json states them."""
    listed = {
        name: None if value is None else list(value)
        for name, value in (
            ("pad_colour", preprocessor.pad_colour),
            ("resize_to", preprocessor.resize_to),
            ("crop_to", preprocessor.crop_to),
        )
    }
    return {
        **listed,
        "shortest_edge": preprocessor.shortest_edge,
        "resample": preprocessor.resample.name.lower(),
        "scale": 1.0 if preprocessor.rescale_factor is None else preprocessor.rescale_factor,
        "mean": list(preprocessor.mean or (0.0, 0.0, 0.0)),
        "std": list(preprocessor.std or (1.0, 1.0, 1.0)),
    }


def translucent(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 4), dtype=np.uint8))


def every_alpha():
    """Each sample at each alpha, once."""
    samples, alpha = np.meshgrid(np.arange(256), np.arange(256))
    return Image.fromarray(np.stack([samples, 255 - samples, samples, alpha], 2).astype(np.uint8))


def exif(orientation, order="<", kind=3, tag=274):
    """EXIF of one tag; ``kind`` 3 is 16 bits, 4 is 32."""
    endian = "little" if order == "<" else "big"
    mark = b"II" if order == "<" else b"MM"
    value = orientation.to_bytes(2 if kind == 3 else 4, endian).ljust(4, b"\0")
    entry = tag.to_bytes(2, endian) + kind.to_bytes(2, endian) + (1).to_bytes(4, endian) + value
    first = (42).to_bytes(2, endian) + (8).to_bytes(4, endian) + (1).to_bytes(2, endian)
    return b"Exif\0\0" + mark + first + entry + bytes(4)


def xmp(orientation):
    text = f'<x:xmpmeta tiff:Orientation="{orientation}"/>'
    return b"http://ns.adobe.com/xap/1.0/\0" + text.encode()


def photographs():
    """JPEG files that say which way is up in every way, and some that are damaged."""
    image = photograph()
    for orientation in range(10):
        for order, kind in itertools.product("<>", (3, 4)):
            yield jpeg_with(image, (0xE1, exif(orientation, order, kind)))
        yield jpeg_with(image, (0xE1, xmp(orientation)))
    yield jpeg_with(image, (0xE1, xmp(3)), (0xE1, exif(6)))
    yield jpeg_with(image, (0xE1, xmp(3)), (0xE1, exif(6, tag=275)))
    yield jpeg_with(image, (0xE1, exif(6)[:18]), (0xE1, b"Exif\0\0" + exif(6)[18:]))
    yield jpeg_with(image, (0xFE, b"a comment"), (0xE1, exif(8)))
    whole = jpeg_with(image, (0xE1, exif(6)))
    yield from (whole[:length] for length in range(0, 80))
    yield from (whole[:at] + b"\xff" + whole[at + 1 :] for at in range(2, 80))
    by_pillow, stated = io.BytesIO(), Image.Exif()
    stated[ExifTags.Base.Orientation] = 5
    stated[ExifTags.Base.Make] = "a camera of some name"
    image.save(by_pillow, "JPEG", exif=stated)
    yield by_pillow.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every case by a key, and what reads what it left."""
    cases = Cases(tmp_path_factory.mktemp("pictures"))
    numbers = {}
    for number, (before, after) in enumerate(SIZES):
        image = noise(*before, extreme=number % 3 == 0)
        given = cases.picture(image)
        for name in FILTERS:
            case = cases.add("resize", picture=given, width=after[0], height=after[1], filter=name)
            numbers["resize", number, name] = (case, image)
    for number, stated in enumerate(CONFIGS):
        for size in PICTURES:
            image = noise(*size)
            steps = steps_of(processor_of(stated))
            case = cases.add("prepare", picture=cases.picture(image), steps=steps)
            numbers["prepare", number, size] = (case, image)
    for orientation, size in itertools.product(range(10), [(5, 3), (1, 4), (4, 1), (6, 6)]):
        image = translucent(*size)
        case = cases.add("upright", picture=cases.picture(image), orientation=orientation)
        numbers["upright", orientation, size] = (case, image)
    image = every_alpha()
    case = cases.add("upright", picture=cases.picture(image), orientation=1)
    numbers["every alpha"] = (case, image)
    files = list(photographs())
    numbers["photographs"] = (cases.add("orientation", files=[*map(cases.file, files)]), files)
    for name, case in refusals(cases).items():
        numbers[name] = (cases.add(**case), None)
    return cases, numbers


def processor_of(stated):
    return Preprocessor.from_config(
        stated, ("LlavaImageProcessor",), padding=("LlavaImageProcessor",)
    )


def refusals(cases):
    picture = cases.picture(noise(4, 3))
    steps = steps_of(processor_of(CONFIGS[0]))
    return {
        "a filter of another kind": {
            "run": "resize",
            "picture": picture,
            "width": 2,
            "height": 2,
            "filter": "mks2021",
        },
        "a property of every object": {
            "run": "resize",
            "picture": picture,
            "width": 2,
            "height": 2,
            "filter": "constructor",
        },
        "too narrow": {
            "run": "prepare",
            "picture": cases.picture(noise(1, 100)),
            "steps": {**steps, "shortest_edge": 336},
        },
        "bytes of another picture": {
            "run": "upright",
            "picture": {**picture, "width": 5},
            "orientation": 1,
        },
        "no decoder": {"run": "decode", "file": cases.file(jpeg_with(photograph()))},
    }


@pytest.mark.parametrize("name", FILTERS)
def test_resized_samples_equal_pillows(results, name):
    cases, numbers = results
    for number, (_, after) in enumerate(SIZES):
        case, image = numbers["resize", number, name]
        expected = np.asarray(image.resize(after, Image.Resampling[name.upper()]))
        made = cases.samples(cases.result(case))
        assert made.shape == expected.shape
        differing = np.abs(made.astype(int) - expected).max(initial=0)
        assert differing == 0, (SIZES[number], differing)


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_prepared_pictures_equal_the_runtimes(results, number):
    cases, numbers = results
    preprocessor = processor_of(CONFIGS[number])
    for size in PICTURES:
        case, image = numbers["prepare", number, size]
        made, expected = cases.result(case), preprocessor.resize_and_crop(image)
        np.testing.assert_array_equal(cases.samples(made), expected)
        values = preprocessor.normalised(expected)
        np.testing.assert_array_equal(cases.floats(made["values"]), values.ravel())


def test_turned_pictures_on_white_equal_the_runtimes(results):
    cases, numbers = results
    for orientation, size in itertools.product(range(10), [(5, 3), (1, 4), (4, 1), (6, 6)]):
        case, image = numbers["upright", orientation, size]
        expected = np.asarray(upright_rgb(image, orientation))
        np.testing.assert_array_equal(cases.samples(cases.result(case)), expected)


def test_transparency_is_composited_as_pillow_does(results):
    cases, numbers = results
    case, image = numbers["every alpha"]
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    np.testing.assert_array_equal(cases.samples(cases.result(case)), expected)


def test_orientation_is_read_as_the_runtime_reads_it(results):
    cases, numbers = results
    case, files = numbers["photographs"]
    expected = [orientation_in(without_notes(data).info) for data in files]
    assert cases.result(case) == expected
    assert set(expected) == set(range(1, 9))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a filter of another kind", "the filter mks2021, which is not served here"),
        ("a property of every object", "the filter constructor, which is not served here"),
        ("too narrow", "A picture of 1 x 100 pixels is too narrow: crop it first"),
        ("bytes of another picture", "5 x 3 pixels comes in 48 bytes: give four a pixel"),
        ("no decoder", "Nothing here decodes pictures"),
    ],
)
def test_refusals_are_in_words(results, name, words):
    cases, numbers = results
    refused = cases.result(numbers[name][0])["refused"]
    assert refused.startswith("ClientError: ")
    assert words in refused
