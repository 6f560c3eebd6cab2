"""Layouts in plain JavaScript against the runtime's: the same tiles bit for bit, the same ids and
rows; and squares that lie where the tokens' pixels came from.

All cases of this file run in one process of Node.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvlm import Artifact
from pocketvlm.errors import PictureError
from pocketvlm.layouts import LAYOUTS, TokenGrid, open_layout
from pocketvlm.layouts.base import tokens_of_tiles
from pocketvlm.media.pictures import open_picture
from pocketvlm.vision.encoder import VisionEncoder
from support.noise import picture
from support.published_pixels import GEOMETRY, assert_as_published, blocks, rows_of
from support.tiny_artifact import make_dynamic, write_artifact
from support.web_layouts import CASES, SLOT, TILE, facts_of, internvl, onevision
from support.web_modules import NODE, OLD_PILLOW, Cases

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(OLD_PILLOW, reason="older Pillow resizes some pictures otherwise"),
]

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(p for p in (ROOT / "examples").iterdir() if p.suffix in (".png", ".jpg"))
HIDDEN = 4
# (width, height): exact grids, even and odd, slivers that are not too narrow, one pixel
SIZES = [
    (168, 112),
    (57, 55),
    (170, 166),
    (300, 41),
    (37, 290),
    (1, 1),
    (205, 333),
    (640, 480),
    (112, 180),
]
CONSTANTS = {"image_newline": np.arange(HIDDEN, dtype=np.float32) / 7 + 100}
SMOOTH = [(320, 200), (190, 333)]


def smooth(width, height):
    """A picture whose red says how far to the right a pixel lies, and whose green how far down."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 0 * down], 2).round().astype(np.uint8))


def kept_of(layout, grid, budget, rng):
    """Some tokens of each tile, rising."""
    counts = [min(budget, tokens) for tokens in tokens_of_tiles(layout, grid)]
    return [
        np.sort(rng.permutation(tokens)[:count])
        for tokens, count in zip(tokens_of_tiles(layout, grid), counts, strict=True)
    ]


def put_together(layout, grid, budget, kept, features):
    """Ids and rows, as the runtime puts them together batch by batch."""
    batches = grid.batches
    if len(batches) == 1:
        ids = layout.expand(grid, budget, np.stack(kept))
    else:
        ids = layout.expand(grid, budget)
    rows, read = [], 0
    for batch in batches:
        own = slice(read, read + batch.tiles)
        rows.append(layout.arrange(batch, np.stack(features[own]), np.stack(kept[own]), CONSTANTS))
        read += batch.tiles
    return ids.tolist(), np.concatenate(rows)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    cases, numbers = Cases(tmp_path_factory.mktemp("layouts")), {}
    constants = {name: cases.file(values.tobytes()) for name, values in CONSTANTS.items()}
    pictures = {size: cases.picture(picture(*size)) for size in SIZES}
    pictures |= {("smooth", *size): cases.picture(smooth(*size)) for size in SMOOTH}
    for name, layout in {**CASES, "several": CASES["anyres-max"]}.items():
        stated, several = facts_of(layout), name == "several"
        for size, given in pictures.items():
            numbers["cut", name, size] = cases.add(
                "cut", facts=stated, picture=given, several=several
            )
        own = layout.several if several else layout
        for number, size in enumerate(SIZES):
            rng = np.random.default_rng(number)
            if served(own, size):
                continue
            grid = own.grid(size[1], size[0])
            for budget in (1, 5, own.config.patches):
                kept = kept_of(own, grid, budget, rng)
                features = [
                    rng.normal(size=(len(each), HIDDEN)).astype(np.float32) for each in kept
                ]
                case = cases.add(
                    "arrange",
                    facts=stated,
                    size=size,
                    kept=[each.tolist() for each in kept],
                    features=[cases.file(each.tobytes()) for each in features],
                    constants=constants,
                    several=several,
                )
                expected = put_together(own, grid, budget, kept, features)
                numbers["arrange", name, size, budget] = (case, expected)
    add_geometry(cases, numbers)
    add_published(cases, numbers)
    add_refusals(cases, numbers)
    return cases, numbers


def served(layout, size):
    """The refusal of a picture of that size; empty where it is served."""
    try:
        layout.grid(size[1], size[0])
    except PictureError as error:
        return str(error)
    return ""


def add_geometry(cases, numbers):
    for row, (_, factor, least, most, height, width, _) in enumerate(GEOMETRY["smart_resize"]):
        stated = facts_of(CASES["smart-resize"])
        stated["layout"] |= {"patches": 10**9}
        stated["layout"]["options"] = {
            "factor": factor,
            "min_pixels": least,
            "max_pixels": most,
        }
        sizes = [[width, height]]
        numbers["smart", row] = cases.add("grids", facts=stated, sizes=sizes)
    for row, (height, width, tile, least, most, _) in enumerate(GEOMETRY["internvl_canvas"]):
        stated = facts_of(internvl())
        stated["layout"]["tile_size"] = [tile, tile]
        stated["layout"]["options"] |= {"min_tiles": least, "max_tiles": most}
        sizes = [[width, height]]
        numbers["canvas", row] = cases.add("grids", facts=stated, sizes=sizes)


def add_published(cases, numbers):
    for family, layout in (("internvl", internvl()), ("llava_onevision", onevision())):
        for row, published in enumerate(rows_of(family)):
            image = blocks(published["width"], published["height"])
            numbers[family, row] = cases.add(
                "cut", facts=facts_of(layout), picture=cases.picture(image)
            )


def changed(facts, **options):
    """Facts with other options of the layout."""
    layout = facts["layout"]
    return {**facts, "layout": {**layout, "options": {**layout["options"], **options}}}


def add_refusals(cases, numbers):
    stated = facts_of(CASES["tiles"])
    single = facts_of(CASES["single"])
    size = [[40, 30]]
    damaged = {
        "frames": {**single, "layout": {**single["layout"], "name": "frames"}},
        "constructor": {**single, "layout": {**single["layout"], "name": "constructor"}},
        "none": {**single, "layout": None},
        "ids": changed(stated, after=[3]),
        "tiles": changed(stated, max_tiles="many"),
        "many tiles": changed(stated, max_tiles=10**9),
    }
    for name, facts in damaged.items():
        numbers["refused", name] = cases.add("grids", facts=facts, sizes=size)
    huge = facts_of(CASES["anyres-hf"])
    huge = changed(huge, pinpoints=[[TILE * 10**5, TILE * 10**5]])
    image = cases.picture(picture(40, 30))
    numbers["refused", "canvas"] = cases.add("cut", facts=huge, picture=image)
    squared = facts_of(CASES["squared"])
    numbers["refused", "constants"] = cases.add(
        "arrange",
        facts=squared,
        size=[30, 30],
        kept=[[0]],
        features=[cases.file(bytes(4 * HIDDEN))],
        constants={},
    )


NAMES = [*CASES, "several"]


def layout_of(name):
    return CASES["anyres-max"].several if name == "several" else CASES[name]


def test_no_layout_is_left_out_but_that_of_clips():
    assert {layout.name for layout in CASES.values()} == LAYOUTS.keys() - {"frames"}


@pytest.mark.parametrize("name", NAMES)
def test_tiles_equal_the_runtimes(results, name):
    cases, numbers = results
    layout = layout_of(name)
    for size in SIZES:
        result = cases.result(numbers["cut", name, size])
        if refusal := served(layout, size):
            assert "too narrow" in refusal
            assert "too narrow" in result["refused"]
            continue
        image = picture(*size)
        tiles = layout.cut(image)
        views = [*layout.views(image)]
        assert len(result["views"]) == len(views) == tiles.grid.tiles
        for view, expected in zip(result["views"], views, strict=True):
            np.testing.assert_array_equal(cases.samples(view), expected)
        expected = [pixels for batch in tiles.batches for pixels in batch]
        for values, pixels in zip(result["values"], expected, strict=True):
            np.testing.assert_array_equal(cases.floats(values), pixels.ravel())


@pytest.mark.parametrize("name", NAMES)
def test_grids_equal_the_runtimes(results, name):
    cases, numbers = results
    layout = layout_of(name)
    for size in SIZES:
        if served(layout, size):
            continue
        expected, result = (
            layout.grid(size[1], size[0]),
            cases.result(numbers["cut", name, size]),
        )
        grid = result["grid"]
        shape = (expected.rows, expected.columns, expected.whole, expected.tiles)
        assert (grid["rows"], grid["columns"], grid["whole"], grid["tiles"]) == shape
        assert (grid["width"], grid["height"]) == size
        tokens = [layout.token_grid(each) for each in expected.batches for _ in range(each.tiles)]
        assert [TokenGrid(**each) for each in result["tokens"]] == tokens
        counts = [each.tiles for each in expected.batches]
        assert [len(batch) for batch in result["batches"]] == counts
        assert [tile for batch in result["batches"] for tile in batch] == [*range(expected.tiles)]


@pytest.mark.parametrize("name", NAMES)
def test_slots_and_rows_equal_the_runtimes(results, name):
    cases, numbers = results
    seen = 0
    for key, stored in numbers.items():
        if key[:2] != ("arrange", name):
            continue
        case, (ids, rows) = stored
        result = cases.result(case)
        assert result["ids"] == ids, key
        arranged = cases.floats(result["arranged"]).reshape(-1, HIDDEN)
        np.testing.assert_array_equal(arranged, rows, err_msg=str(key))
        assert len(arranged) == ids.count(SLOT)
        seen += 1
    assert seen >= 15


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SMOOTH)
def test_squares_lie_where_their_pixels_came_from(results, name, size):
    """By colours that say where a pixel was, of every token that is not padding."""
    cases, numbers = results
    width, height = size
    result = cases.result(numbers["cut", name, ("smooth", *size)])
    views = [*layout_of(name).views(smooth(*size))]
    shown = zip(views, result["rectangles"], result["tokens"], result["patches"], strict=True)
    seen = 0
    for view, part, tokens, squares in shown:
        rows, columns = tokens["rows"], tokens["columns"]
        tall, wide = view.shape[0] / rows, view.shape[1] / columns
        widest, tallest = part["width"] / columns, part["height"] / rows
        for index, square in enumerate(squares):
            assert 0 <= square["x"] <= square["x"] + square["width"] <= width + 1e-6
            assert 0 <= square["y"] <= square["y"] + square["height"] <= height + 1e-6
            if square["width"] < widest - 1e-6 or square["height"] < tallest - 1e-6:
                continue  # cut off at the picture's edge: partly padding
            top, left = (index // columns) * tall, (index % columns) * wide
            pixels = view[round(top) : round(top + tall), round(left) : round(left + wide)]
            across, down = pixels.reshape(-1, 3).mean(axis=0)[:2] / 255 * (width - 1, height - 1)
            assert abs(square["x"] + square["width"] / 2 - across) <= 2 + widest / 8
            assert abs(square["y"] + square["height"] / 2 - down) <= 2 + tallest / 8
            seen += 1
    assert seen >= 4


def test_published_sizes(results):
    cases, numbers = results
    for row, (_, factor, *_, size) in enumerate(GEOMETRY["smart_resize"]):
        result = cases.result(numbers["smart", row])
        if size is None:
            assert "too narrow" in result["refused"]
        else:
            tokens = result[0]["tokens"]
            assert [tokens["rows"] * factor, tokens["columns"] * factor] == size
    for row, (*_, canvas) in enumerate(GEOMETRY["internvl_canvas"]):
        (grid,) = cases.result(numbers["canvas", row])
        assert [grid["columns"], grid["rows"]] == canvas


def test_published_pixels(results):
    cases, numbers = results
    for family, count in (("internvl", 1), ("llava_onevision", 1)):
        rows = rows_of(family)
        assert len(rows) >= count
        for row, published in enumerate(rows):
            result = cases.result(numbers[family, row])
            values = np.concatenate([cases.floats(each) for each in result["values"]])
            assert_as_published(values.reshape(published["shape"]), published)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frames", "by the layout frames, which is not served here: answer with PocketVLM's"),
        ("constructor", "by the layout constructor, which is not served"),
        ("none", "does not say by which layout"),
        ("ids", "has after [3]: export the artifact again"),
        ("tiles", 'has max_tiles "many": export the artifact again'),
        ("many tiles", "has max_tiles 1000000000: export the artifact again"),
        ("canvas", "the limit is 67108864 pixels: export the artifact again"),
        ("constants", "reads the constants image_newline"),
    ],
)
def test_refusals_are_in_words(results, name, words):
    cases, numbers = results
    refused = cases.result(numbers["refused", name])["refused"]
    assert refused.startswith("ClientError: ")
    assert words in refused


@pytest.fixture(scope="module", params=["one size", "any size"])
def artifact(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("artifact") / "a"
    weights = write_artifact(root)
    if request.param == "any size":
        make_dynamic(root, weights, 6, 24)
    return Artifact.open(root)


def test_kept_patches_of_the_sample_pictures_equal_the_runtimes(artifact, tmp_path):
    layout, encoder = open_layout(artifact), VisionEncoder.open(artifact)
    cases = Cases(tmp_path)
    images = [open_picture(path) for path in SAMPLES]
    given = [
        cases.add("cut", facts=facts_of(layout), picture=cases.picture(image)) for image in images
    ]
    assert len(images) >= 6
    for case, image in zip(given, images, strict=True):
        tiles = layout.cut(image)
        result = cases.result(case)
        values = np.stack([cases.floats(each) for each in result["values"]])
        np.testing.assert_array_equal(values, tiles.pixel_values.reshape(len(values), -1))
        seen = encoder.encode(values.reshape(tiles.pixel_values.shape))
        expected = encoder.encode(tiles.pixel_values)
        np.testing.assert_array_equal(seen.kept_indices, expected.kept_indices)
