"""Layouts and positions in plain JavaScript against the runtime's: the same tiles bit for bit, the
same ids, rows and numbers; and squares that lie where the tokens' pixels came from.

All cases of this file run in one process of Node.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvlm import Artifact
from pocketvlm.decoders.positions import positions_named
from pocketvlm.errors import PictureError
from pocketvlm.layouts import LAYOUTS, LayoutConfig, TokenGrid, make_layout, open_layout
from pocketvlm.layouts.base import tokens_of_tiles
from pocketvlm.media.pictures import open_picture
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export.packaging.client_layouts import layout_facts, picture_steps
from support.noise import picture
from support.published_pixels import GEOMETRY, assert_as_published, blocks, rows_of
from support.tiny_artifact import make_dynamic, write_artifact
from support.web_modules import NODE, Cases

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(p for p in (ROOT / "examples").iterdir() if p.suffix in (".png", ".jpg"))
MROPE = json.loads((ROOT / "tests" / "data" / "mrope_positions.json").read_text())
TILE, N, SLOT, HIDDEN = 56, 16, 3, 4
MEAN = {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.27, 0.26, 0.2]}
PINPOINTS = [[TILE * rows, TILE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
ONEVISION = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": TILE, "width": TILE},
    "image_grid_pinpoints": PINPOINTS,
    **MEAN,
}
NEXT = {
    "image_processor_type": "LlavaNextImageProcessor",
    "size": {"shortest_edge": TILE},
    "crop_size": {"height": TILE, "width": TILE},
    "image_grid_pinpoints": PINPOINTS,
    **MEAN,
}
LFM2 = {
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "encoder_patch_size": 8,
    "downsample_factor": 2,
    "min_image_tokens": 4,
    "max_image_tokens": 40,
    "tile_size": 64,
    "min_tiles": 2,
    "max_tiles": 6,
    **MEAN,
}
QWEN = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"shortest_edge": 4 * 784, "longest_edge": 40 * 784},
    "patch_size": 14,
    "merge_size": 2,
    **MEAN,
}
MARKED = {"factor": 16, "min_pixels": 4 * 256, "max_pixels": 40 * 256, "before": [8], "after": [9]}
PARTS = [[[100 + 10 * row + column, 7] for column in range(10)] for row in range(10)]


def clip(**stated):
    return {"image_processor_type": "CLIPImageProcessor", **MEAN, **stated}


def made(name, processor, *, size=(TILE, TILE), patches=N, **options):
    config = LayoutConfig(size, patches, SLOT, {"name": name, **options})
    return make_layout(config, processor)


def idefics(longest, tile, *, splits=True, resizes=True):
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_resize": resizes,
        "size": {"longest_edge": longest},
        "max_image_size": {"longest_edge": tile},
        "do_image_splitting": splits,
    }
    marks = {"around": [5], "whole": [6, 11], "row_end": [12], "last_row_end": [13, 14]}
    options = {"longest_edge": longest, "splits": splits, "resizes": resizes, "marks": marks}
    return made("idefics3", processor, size=(tile, tile), **options, parts=PARTS)


def thumbnails(**change):
    cutting = {"tile": 64, "min_tiles": 2, "max_tiles": 6, "cut_above": 80 * 256, "patch": 8}
    options = {**MARKED, **cutting, "thumbnail": True, "whole": [42], "parts": PARTS, **change}
    processor = {**LFM2, "use_thumbnail": options["thumbnail"]}
    return made("tiles-and-thumbnail", processor, size=None, patches=40, **options)


def internvl(tile=TILE, **options):
    processor = {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "size": {"height": tile, "width": tile},
        "max_patches": 6,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    options = {"min_tiles": 1, "max_tiles": 6, "before": [8, 9], "after": [5], **options}
    return made("tiles", processor, size=(tile, tile), **options)


def onevision(tile=TILE):
    pinpoints = [[tile * rows, tile * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    processor = {
        "image_processor_type": "LlavaOnevisionImageProcessorFast",
        "size": {"height": tile, "width": tile},
        "image_grid_pinpoints": pinpoints,
    }
    return made("anyres-max", processor, pinpoints=pinpoints, most_tiles=9)


CASES = {
    "single": made("single", clip(size=TILE, crop_size=TILE)),
    "single, larger than the crop": made("single", clip(size=70, crop_size=TILE)),
    "single, padded": made(
        "single",
        {
            **clip(size=TILE, crop_size=TILE, do_pad=True),
            "image_processor_type": "LlavaImageProcessor",
        },
    ),
    "squared": made("squared", ONEVISION, newline=True),
    "squared, no newline": made("squared", ONEVISION, newline=False),
    "tiles": internvl(),
    "idefics3": idefics(3 * TILE, TILE),
    "idefics3, odd": idefics(77, 26),
    "idefics3, whole": idefics(2 * TILE, TILE, splits=False),
    "idefics3, as it is": idefics(10 * TILE, TILE, resizes=False),
    "idefics3, squeezed": idefics(10 * TILE, TILE, splits=False, resizes=False),
    "smart-resize": made(
        "smart-resize",
        QWEN,
        size=None,
        patches=40,
        factor=28,
        min_pixels=4 * 784,
        max_pixels=40 * 784,
    ),
    "smart-resize, fixed": make_layout(
        LayoutConfig((56, 84), 6, SLOT, {"name": "smart-resize", "factor": 28, "size": [56, 84]}),
        QWEN,
    ),
    "marked-resize": made("marked-resize", LFM2, size=None, patches=40, **MARKED),
    "tiles-and-thumbnail": thumbnails(),
    "tiles-and-thumbnail, parts alone": thumbnails(thumbnail=False),
    "tiles-and-thumbnail, never cut": thumbnails().capped(max_tiles=1),
    "anyres-fastervlm": made("anyres-fastervlm", NEXT, pinpoints=PINPOINTS),
    "anyres-hf": made("anyres-hf", NEXT, pinpoints=PINPOINTS),
    "anyres-max": made("anyres-max", ONEVISION, pinpoints=PINPOINTS, most_tiles=2),
}
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


def facts_of(layout):
    return {
        "layout": layout_facts(layout),
        "picture": picture_steps(layout),
        "image_token_id": layout.config.image_token_id,
    }


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
    add_positions(cases, numbers)
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


def pieces_of(vector):
    """A vector's prompt: its text, and its pictures where their spans begin."""
    pieces, read, kept_tokens = [], 0, 0
    for (start, size), (down, across), kept in zip(
        vector["spans"], vector["grids"], vector["kept"], strict=True
    ):
        before = start - kept_tokens
        pieces.append({"text": before - read})
        grid = {"rows": down // 2, "columns": across // 2}
        pieces.append({"grid": grid, "kept": kept})
        read, kept_tokens = before, kept_tokens + size
    return [*pieces, {"text": len(vector["text_ids"]) - read}]


def random_pieces(rng):
    pieces = [{"text": int(rng.integers(1, 9))}]
    for _ in range(rng.integers(0, 4)):
        rows, columns = rng.integers(1, 9, 2).tolist()
        count = int(rng.integers(1, rows * columns + 1))
        kept = np.sort(rng.permutation(rows * columns)[:count]).tolist()
        pieces.append({"grid": {"rows": rows, "columns": columns}, "kept": kept})
        pieces.append({"text": int(rng.integers(0, 9))})
    return pieces


PROMPTS = [random_pieces(np.random.default_rng(seed)) for seed in range(40)]


def add_positions(cases, numbers):
    for row, vector in enumerate(MROPE):
        numbers["vector", row] = cases.add("positions", name="mrope", pieces=pieces_of(vector))
    for name in ("contiguous", "mrope"):
        for row, pieces in enumerate(PROMPTS):
            numbers[name, row] = cases.add("positions", name=name, pieces=pieces)


def add_refusals(cases, numbers):
    stated = facts_of(CASES["tiles"])
    single = facts_of(CASES["single"])
    size = [[40, 30]]
    damaged = {
        "frames": {**single, "layout": {**single["layout"], "name": "frames"}},
        "constructor": {**single, "layout": {**single["layout"], "name": "constructor"}},
        "none": {**single, "layout": None},
        "ids": {
            **stated,
            "layout": {**stated["layout"], "options": {**internvl().config.options, "after": [3]}},
        },
        "tiles": {
            **stated,
            "layout": {
                **stated["layout"],
                "options": {**internvl().config.options, "max_tiles": "many"},
            },
        },
    }
    for name, facts in damaged.items():
        numbers["refused", name] = cases.add("grids", facts=facts, sizes=size)
    numbers["refused", "positions"] = cases.add("positions", name="alibi", pieces=[])
    grid = {"rows": 2, "columns": 2}
    for name, kept in (("order", [2, 1]), ("beyond", [1, 4]), ("twice", [1, 1])):
        numbers["refused", name] = cases.add(
            "positions", name="mrope", pieces=[{"grid": grid, "kept": kept}]
        )
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
    """By colours that say where a pixel was, of every token that is no padding."""
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


def test_position_vectors_of_transformers(results):
    cases, numbers = results
    for row, vector in enumerate(MROPE):
        result = cases.result(numbers["vector", row])
        assert result["dims"] == [3, 1, vector["tokens_left"]]
        planes = np.reshape(result["numbers"], (3, -1)).tolist()
        assert planes == vector["positions_of_what_is_left"]
        assert result["next"] == vector["next_position"]


@pytest.mark.parametrize("name", ["contiguous", "mrope"])
def test_positions_equal_the_runtimes(results, name):
    cases, numbers = results
    positions = positions_named(name)
    for row, pieces in enumerate(PROMPTS):
        planes, start = [], 0
        for piece in pieces:
            if "kept" in piece:
                kept = np.array(piece["kept"])
                grid = TokenGrid(**piece["grid"])
                numbered, start = positions.picture(start, grid, kept, len(kept))
            else:
                numbered, start = positions.text(start, piece["text"])
            planes.append(numbered)
        expected = np.concatenate(planes, axis=1)
        result = cases.result(numbers[name, row])
        assert result["numbers"] == expected.ravel().tolist()
        assert result["next"] == start
        tokens = expected.shape[1]
        assert result["dims"] == ([1, tokens] if positions.axes == 1 else [3, 1, tokens])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frames", "by the layout frames, which is not served here: answer with PocketVLM's"),
        ("constructor", "by the layout constructor, which is not served"),
        ("none", "does not say by which layout"),
        ("ids", "has after [3]: export the artifact again"),
        ("tiles", 'has max_tiles "many": export the artifact again'),
        ("positions", "numbers tokens by alibi, which is not served here"),
        ("order", "no rising numbers of them (2,1)"),
        ("beyond", "no rising numbers of them (1,4)"),
        ("twice", "no rising numbers of them (1,1)"),
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
