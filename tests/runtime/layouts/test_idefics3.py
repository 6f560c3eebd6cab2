"""Idefics3's and SmolVLM's tiles and the tokens around them, against transformers' image processors
and processor."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from make_checkpoint.text import make_tiling_processor, make_tokenizer
from pocketvlm import PocketVLMError
from pocketvlm.layouts import LayoutConfig, make_layout, slot_count, tokens_before
from support.noise import picture

N = 4
TOKENIZER = make_tokenizer("smolvlm")
IMAGE_TOKEN = TOKENIZER.convert_tokens_to_ids("<image>")
# (width, height): even and odd, whole tiles, a pixel, slivers, and just beside a change of grid
SIZES = [
    (56, 56),
    (56, 28),
    (28, 84),
    (57, 55),
    (1, 1),
    (1, 500),
    (700, 1),
    (30, 41),
    (41, 42),
    (999, 333),
    (84, 43),
]
# Longest edge and tile: whole multiples, none, odd ones, a picture smaller than a tile, and just
# one tile.
GEOMETRIES = [(56, 28), (70, 28), (63, 21), (77, 26), (20, 28), (28, 28)]
sizes = st.tuples(st.integers(1, 200), st.integers(1, 200))


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def options(longest, splits, most=6, resizes=True):
    return {
        "name": "idefics3",
        "longest_edge": longest,
        "splits": splits,
        "resizes": resizes,
        "marks": {
            "around": ids_of("<fake_token_around_image>"),
            "whole": ids_of("<global-img>"),
            "row_end": ids_of("\n"),
            "last_row_end": ids_of("\n\n"),
        },
        "parts": [
            [ids_of(f"<row_{r}_col_{c}>") for c in range(1, most + 1)] for r in range(1, most + 1)
        ],
    }


def both(longest, tile, splits=True, kind=Idefics3ImageProcessorPil, most=6, resizes=True):
    """Ours and transformers'."""
    stated = {
        "do_resize": resizes,
        "size": {"longest_edge": longest},
        "max_image_size": {"longest_edge": tile},
        "do_image_splitting": splits,
    }
    config = {"image_processor_type": kind.__name__.removesuffix("Pil"), **stated}
    made = options(longest, splits, most, resizes)
    setting = LayoutConfig((tile, tile), N, IMAGE_TOKEN, made)
    return make_layout(setting, config), kind(**stated)


LAYOUTS = {
    (*geometry, splits): both(*geometry, splits)
    for geometry in GEOMETRIES
    for splits in (True, False)
}


# Pictures as they are: ten tiles along an edge is the most, and all that is larger is made smaller.
AS_THEY_ARE = {
    (10 * tile, tile, splits, "as it is"): both(10 * tile, tile, splits, most=10, resizes=False)
    for tile in (28, 21)
    for splits in (True, False)
}


def cases(test):
    for size in SIZES:
        test = example(size)(test)
    return settings(max_examples=25, deadline=None)(given(sizes)(test))


@pytest.mark.parametrize("geometry", [*LAYOUTS, *AS_THEY_ARE])
@cases
def test_tiles_equal_those_of_transformers(geometry, size):
    ours, theirs = {**LAYOUTS, **AS_THEY_ARE}[geometry]
    image = picture(*size)
    assume(ours.resizes or not ours.splits or max(size) <= ours.longest_edge)
    expected = theirs(image, return_tensors="np", return_row_col_info=True)
    tiles = ours.cut(image)
    assert tiles.pixel_values.shape == expected["pixel_values"][0].shape
    assert np.abs(tiles.pixel_values - expected["pixel_values"][0]).max() < 1e-5
    rows, columns = expected["rows"][0][0], expected["cols"][0][0]
    assert (tiles.grid.rows, tiles.grid.columns) == ((rows, columns) if rows else (1, 1))
    assert (tiles.grid.whole == "last") == (rows > 0)
    assert tiles.grid in ours.grids()
    assert ours.views(image).shape == (tiles.grid.tiles, geometry[1], geometry[1], 3)


@pytest.mark.parametrize(("most", "longest"), [(9, 84), (4, 56), (3, 28), (1, 28)])
def test_fewer_tiles_are_those_of_a_processor_that_makes_pictures_smaller(most, longest):
    ours, _ = both(84, 28)
    _, theirs = both(longest, 28)
    capped = ours.capped(max_tiles=most)
    assert max(grid.rows * grid.columns for grid in capped.grids()) <= most
    for size in SIZES:
        image = picture(*size)
        expected = theirs(image, return_tensors="np")["pixel_values"][0]
        assert np.abs(capped.cut(image).pixel_values - expected).max() < 1e-5


@pytest.mark.parametrize(("splits", "refused"), [(True, 0), (True, 10), (False, 1)])
def test_more_tiles_than_there_are_and_pictures_that_are_not_cut(splits, refused):
    ours, _ = both(84, 28, splits)
    with pytest.raises(PocketVLMError, match="max_tiles"):
        ours.capped(max_tiles=refused)


@pytest.mark.parametrize("kind", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
def test_tiles_of_published_sizes_equal_those_of_transformers(kind):
    ours, theirs = both(2048, 512, kind=kind)
    for size in [(640, 427), (300, 900), (1, 1000)]:
        image = picture(*size)
        expected = theirs(image, return_tensors="np")["pixel_values"][0]
        assert np.abs(ours.cut(image).pixel_values - expected).max() < 1e-5
    grids = [(str(grid), grid.tiles) for grid in ours.grids()]
    assert grids == [
        ("1x4", 5),
        ("4x1", 5),
        ("2x4", 9),
        ("4x2", 9),
        ("3x4", 13),
        ("4x3", 13),
        ("4x4", 17),
    ]


def test_pictures_are_not_made_larger_than_transformers_makes_them():
    ours, theirs = both(6000, 1024)
    for size in [(30, 2), (2, 31)]:
        tiles = ours.cut(picture(*size))
        expected = theirs(picture(*size), return_tensors="np")["pixel_values"][0]
        assert tiles.pixel_values.shape == expected.shape
        assert np.abs(tiles.pixel_values - expected).max() < 1e-5


@pytest.mark.parametrize("geometry", LAYOUTS)
def test_every_grid_is_reached_and_none_is_missing(geometry):
    """Of pictures with up to 200 pixels in one direction and 1 to 200 in the other."""
    ours, _ = LAYOUTS[geometry]
    shapes = [(short, long) for long in (99, 100, 199, 200) for short in range(1, long + 1)]
    reached = {ours.grid(*shape) for shape in shapes} | {
        ours.grid(*shape[::-1]) for shape in shapes
    }
    assert reached == set(ours.grids())


@pytest.mark.parametrize("geometry", AS_THEY_ARE)
def test_pictures_as_they_are_reach_every_grid(geometry):
    ours, _ = AS_THEY_ARE[geometry]
    edges = range(1, ours.longest_edge + 1, 9)
    reached = {ours.grid(height, width) for height in edges for width in edges}
    assert reached == set(ours.grids())
    assert len(reached) == (100 if ours.splits else 1)


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("budget", [1, N])
def test_prompts_equal_those_of_transformers_processor(splits, budget):
    stated = {
        "size": {"longest_edge": 84},
        "max_image_size": {"longest_edge": 28},
        "do_image_splitting": splits,
    }
    ours, _ = both(84, 28, splits)
    processor = make_tiling_processor(TOKENIZER, "idefics3", stated, budget)
    for size in [(84, 84), (84, 50), (20, 84), (9, 9)]:
        image = picture(*size)
        expected = processor(text="a <image> b", images=[image])["input_ids"][0]
        stands = ours.expand(ours.grid(image.height, image.width), budget)
        assert [*ids_of("a "), *stands, *ids_of(" b")] == expected
        grid = ours.grid(image.height, image.width)
        assert slot_count(ours, stands) == budget * grid.tiles
        assert tokens_before(ours, grid) == N * grid.tiles


def test_features_stand_tile_after_tile():
    ours, _ = both(56, 28)
    grid = ours.grid(56, 56)
    kept = np.tile(np.array([0, 2]), (5, 1))
    numbers = np.arange(5 * 2, dtype=np.float32).reshape(5, 2, 1)
    arranged = ours.arrange(grid, numbers, kept, {})
    assert arranged[:, 0].tolist() == list(range(10))


def test_a_picture_too_large_for_ten_tiles_is_made_smaller():
    ours, theirs = both(280, 28, most=10, resizes=False)
    image = picture(999, 333)
    larger = {"do_resize": True, "size": {"longest_edge": 280}}
    expected = theirs(image, return_tensors="np", **larger)["pixel_values"][0]
    assert np.abs(ours.cut(image).pixel_values - expected).max() < 1e-5
    assert "Where it is larger than that, resize it to 280" in ours.recipe
    few = ours.capped(max_tiles=4)
    assert few.grid(999, 333).tiles <= 5
    assert few.grid(30, 41) == ours.grid(30, 41)


def test_the_recipe_names_every_part():
    ours, _ = both(56, 28, most=2)
    assert "row 2, column 2: `" + str(ids_of("<row_2_col_2>")) in ours.recipe
    assert "row 2" not in both(56, 28, splits=False)[0].recipe


def change(**changes):
    return {**options(56, True, most=2), **changes}


MARKS = options(56, True)["marks"]


@pytest.mark.parametrize(
    ("stated", "config"),
    [
        (change(longest_edge="56"), {}),
        (change(longest_edge=0), {}),
        (change(longest_edge=10**9), {}),
        (change(longest_edge=28 * 11), {}),  # 121 tiles
        (change(longest_edge=84), {}),  # names for 2 x 2 parts
        (change(splits="yes"), {}),
        (change(marks=None), {}),
        (change(marks={**MARKS, "whole": [-1]}), {}),
        (change(marks={**MARKS, "whole": [1.0]}), {}),
        (change(marks={**MARKS, "around": [IMAGE_TOKEN]}), {}),
        (change(marks={**MARKS, "around": [1] * 65}), {}),
        (change(parts=[[[1], [2]]]), {}),
        (change(parts=[[[1]], [[2]]]), {}),
        (change(parts="ab"), {}),
        (change(), {"do_image_splitting": False}),
        (change(), {"size": {"longest_edge": 84}}),
        (change(), {"size": {"height": 56, "width": 56}}),
        (change(), {"size": 56}),
        (change(), {"max_image_size": {"longest_edge": 14}}),
        (change(), {"do_resize": False}),
        (change(), {"image_processor_type": "CLIPImageProcessor"}),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(stated, config):
    sound = {"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 56}}
    sound |= {"max_image_size": {"longest_edge": 28}}
    make_layout(LayoutConfig((28, 28), N, IMAGE_TOKEN, change()), sound)
    with pytest.raises(PocketVLMError):
        make_layout(LayoutConfig((28, 28), N, IMAGE_TOKEN, stated), {**sound, **config})


def test_tiles_that_are_no_squares_are_refused():
    with pytest.raises(PocketVLMError, match="square tiles"):
        make_layout(LayoutConfig((28, 14), N, IMAGE_TOKEN, change()))
