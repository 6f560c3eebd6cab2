"""InternVL's tiles against transformers' own processor: pixels without any difference, the same
grids."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.layouts import LayoutConfig, TileGrid, make_layout, slot_count, tokens_before
from support.noise import picture
from support.published_pixels import GEOMETRY, assert_as_published, blocks, rows_of

TILE, N, IMAGE_TOKEN = 56, 16, 3
CONFIG = {
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "size": {"height": TILE, "width": TILE},
    "crop_to_patches": False,  # as published; the processor turns it on when it is called
    "max_patches": 6,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
OPTIONS = {"name": "tiles", "min_tiles": 1, "max_tiles": 6, "before": [8, 9], "after": [5]}
THEIRS = GotOcr2ImageProcessorPil(
    **{key: value for key, value in CONFIG.items() if key != "image_processor_type"}
)


def layout_of(options=OPTIONS, processor=CONFIG, tile=TILE):
    return make_layout(LayoutConfig((tile, tile), N, IMAGE_TOKEN, options), processor)


def theirs(image):
    given = THEIRS(image, crop_to_patches=True, return_tensors="np")
    assert len(given["pixel_values"]) == given["num_patches"][0]
    return given["pixel_values"]


@settings(max_examples=12, deadline=None)
@given(width=st.integers(4, 700), height=st.integers(4, 700))
@example(width=4000, height=4000)
@example(width=4000, height=4)
@example(width=4, height=4000)
@example(width=112, height=56)
@example(width=79, height=79)  # covers less than half of a 2 x 2 grid
@example(width=80, height=80)  # and more
def test_pixels_equal_those_of_transformers(width, height):
    image = picture(width, height)
    tiles = layout_of().cut(image)
    expected = theirs(image)
    assert tiles.pixel_values.dtype == np.float32
    np.testing.assert_array_equal(tiles.pixel_values, expected)
    assert tiles.grid == layout_of().grid(height, width)
    assert tiles.grid.tiles == len(expected)
    assert tiles.grid.whole == ("last" if len(expected) > 1 else None)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (1, 4000), (4000, 1)])
def test_slivers_are_cut_too(size):
    """transformers takes such arrays for channels first."""
    tiles = layout_of().cut(picture(*size))
    assert tiles.pixel_values.shape == (tiles.grid.tiles, 3, TILE, TILE)
    assert np.isfinite(tiles.pixel_values).all()


@pytest.mark.parametrize("row", rows_of("internvl"), ids=lambda row: f"{row['width']}")
def test_published_pixels(row):
    tiles = layout_of().cut(blocks(row["width"], row["height"]))
    assert_as_published(tiles.pixel_values, row)


@pytest.mark.parametrize(
    ("height", "width", "tile", "least", "most", "canvas"), GEOMETRY["internvl_canvas"]
)
def test_published_grids(height, width, tile, least, most, canvas):
    options = {**OPTIONS, "min_tiles": least, "max_tiles": most}
    grid = layout_of(options, None, tile).grid(height, width)
    assert [grid.columns, grid.rows] == canvas


def test_nothing_comes_between_the_slots_of_tiles():
    layout = layout_of()
    grid = layout.grid(480, 640)
    assert (grid.rows, grid.columns, grid.tiles) == (2, 3, 7)
    ids = layout.expand(grid, 2)
    assert ids.tolist() == [8, 9, *[IMAGE_TOKEN] * 14, 5]
    assert slot_count(layout, ids) == 14
    assert tokens_before(layout, grid) == 7 * N
    features = np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3)
    arranged = layout.arrange(grid, features, np.zeros((7, 2), np.int64), {})
    np.testing.assert_array_equal(arranged, features.reshape(14, 3))
    assert layout.expand(TileGrid(), 4).tolist() == [8, 9, *[IMAGE_TOKEN] * 4, 5]


def test_grids_are_listed_by_their_tiles():
    shapes = [str(grid) for grid in layout_of().grids()]
    assert shapes == [
        *("1x1", "1x2", "2x1", "1x3", "3x1", "1x4", "2x2", "4x1", "1x5", "5x1"),
        *("1x6", "2x3", "3x2", "6x1"),
    ]
    assert layout_of().largest_size() == (6 * TILE, TILE)


def test_views_are_what_is_normalised():
    layout, image = layout_of(), picture(150, 100)
    views = layout.views(image)
    assert views.shape == (7, TILE, TILE, 3)
    expected = np.asarray(image.resize((TILE, TILE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(views[-1], expected)


def test_fewer_tiles_can_be_asked_for():
    layout = layout_of()
    fewer = layout.capped(max_tiles=2)
    assert fewer.grids()[-1].tiles == 3
    assert fewer.cut(picture(150, 50)).grid == TileGrid(1, 2, "last")
    assert layout.capped(max_tiles=1).cut(picture(150, 50)).grid == TileGrid()
    assert layout.max_tiles == 6
    for refused in (0, 7, -1):
        with pytest.raises(RequestError, match=rf"max_tiles {refused}: expected 1..6") as caught:
            layout.capped(max_tiles=refused)
        assert caught.value.setting == "max_tiles"
    with pytest.raises(RequestError, match="max_tiles is of type float"):
        layout.capped(max_tiles=2.0)
    with pytest.raises(RequestError, match="max_pixels is nothing that the layout tiles has"):
        layout.capped(max_pixels=1000)


def test_an_export_may_cut_into_fewer_tiles_than_the_processor():
    assert layout_of({**OPTIONS, "max_tiles": 4}).max_tiles == 4
    assert layout_of({**OPTIONS, "max_tiles": 4}, {**CONFIG, "max_patches": None}).max_tiles == 4


@pytest.mark.parametrize(
    "change",
    [
        {"min_tiles": 0},
        {"min_tiles": 7},
        {"min_tiles": True},
        {"max_tiles": 10**9},
        {"max_tiles": 6.0},
        {"max_tiles": None},
        {"before": None},
        {"before": [1.0]},
        {"before": [-1]},
        {"before": list(range(4, 80))},
        {"after": [IMAGE_TOKEN]},
        {"after": "</img>"},
    ],
)
def test_hostile_options_are_refused(change):
    with pytest.raises(PocketVLMError, match="the layout"):
        layout_of({**OPTIONS, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": 57, "width": 56}},
        {"size": {"shortest_edge": 56}},
        {"size": None},
        {"do_resize": False},
        {"max_patches": 5},
        {"max_patches": "many"},
        {"min_patches": 2},
        {"image_processor_type": "CLIPImageProcessor"},
    ],
)
def test_another_processor_than_the_layouts_is_refused(change):
    with pytest.raises(PocketVLMError, match="image processor"):
        layout_of(processor={**CONFIG, **change})


def test_tiles_without_a_size_are_refused():
    config = dataclasses.replace(layout_of().config, image_size=None)
    with pytest.raises(PocketVLMError, match="states no image size for the layout tiles"):
        make_layout(config, CONFIG)


def test_the_recipe_names_what_a_client_needs():
    recipe = layout_of().recipe
    for said in ("56 x 56", "bicubic", "1 to 6 tiles", "`[8, 9]`", "`[5]`"):
        assert said in recipe
