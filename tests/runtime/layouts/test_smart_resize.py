"""Pictures of about their own size: pixels equal to the patches of transformers' own processor, put
back in their places."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pocketvlm.errors import PictureError, PocketVLMError, RequestError
from pocketvlm.layouts import (
    LayoutConfig,
    TileGrid,
    TokenGrid,
    make_layout,
    slot_count,
    tokens_before,
)
from pocketvlm.layouts.smart_resize import smart_size
from support.noise import picture
from support.published_pixels import GEOMETRY, assert_as_published, blocks, rows_of

IMAGE_TOKEN = 3
QWEN2 = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"shortest_edge": 3136, "longest_edge": 200 * 784},
    "patch_size": 14,
    "merge_size": 2,
}
QWEN3 = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "size": {"shortest_edge": 65536, "longest_edge": 262144},
    "patch_size": 16,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
PROCESSORS = {"qwen2_5_vl": QWEN2, "qwen3_vl": QWEN3}


def layout_of(processor=QWEN2, *, counts=False, **change):
    factor = processor["patch_size"] * processor["merge_size"]
    least, most = processor["size"].values()
    options = {"factor": factor, "min_pixels": least, "max_pixels": most, **change}
    patches = options["max_pixels"] // factor**2
    config = LayoutConfig(None, patches, IMAGE_TOKEN, {"name": "smart-resize", **options})
    return make_layout(config, None if counts else processor)


def fixed(size=(56, 84), **change):
    tokens = (size[0] // 28) * (size[1] // 28)
    options = {"name": "smart-resize", "factor": 28, "size": list(size), **change}
    return make_layout(LayoutConfig(size, tokens, IMAGE_TOKEN, options), QWEN2)


def theirs(image, processor):
    """Patches (n, channels * frames * rows * columns), and their rows and columns."""
    made = Qwen2VLImageProcessorPil(
        **{key: value for key, value in processor.items() if key != "image_processor_type"}
    )(image, return_tensors="np", input_data_format="channels_last")
    return made["pixel_values"], made["image_grid_thw"][0, 1:]


def patches_of(pixels, processor):
    """(3, height, width) as transformers lays patches out: block by block, then rows and columns in
    a block; in each channel, frame, row, column. Both frames are the picture."""
    edge, merge = processor["patch_size"], processor["merge_size"]
    _, height, width = pixels.shape
    block = edge * merge
    cut = pixels.reshape(3, height // block, merge, edge, width // block, merge, edge)
    ordered = cut.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    return np.repeat(ordered, 2, axis=5).reshape(-1, 3 * 2 * edge * edge)


@settings(max_examples=12, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    family=st.sampled_from(sorted(PROCESSORS)),
)
@example(width=1, height=1, family="qwen2_5_vl")
@example(width=4000, height=4000, family="qwen2_5_vl")
@example(width=4000, height=20, family="qwen3_vl")
@example(width=2, height=400, family="qwen2_5_vl")
@example(width=42, height=70, family="qwen2_5_vl")  # halves go to the even number
def test_pixels_equal_those_of_transformers(width, height, family):
    processor = PROCESSORS[family]
    layout = layout_of(processor)
    image = picture(width, height)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(PictureError, match=f"{width}x{height} pixels is too narrow"):
            layout.cut(image)
        return
    expected, (rows, columns) = theirs(image, processor)
    tiles = layout.cut(image)
    assert tiles.pixel_values.dtype == np.float32
    assert len(tiles.pixel_values) == 1
    np.testing.assert_array_equal(patches_of(tiles.pixel_values[0], processor), expected)
    assert tiles.grid == TileGrid(tokens=TokenGrid(rows // 2, columns // 2))
    assert tiles.grid == layout.grid(height, width)


@pytest.mark.parametrize("family", sorted(PROCESSORS))
def test_published_pixels(family):
    for row in rows_of(family):
        tiles = layout_of(PROCESSORS[family]).cut(blocks(row["width"], row["height"]))
        assert_as_published(patches_of(tiles.pixel_values[0], PROCESSORS[family]), row)


@pytest.mark.parametrize(
    ("factor", "least", "most", "height", "width", "size"),
    [row[1:] for row in GEOMETRY["smart_resize"]],
)
def test_published_sizes(factor, least, most, height, width, size):
    if size is None:
        assert max(height, width) > 200 * min(height, width)
    else:
        assert list(smart_size(height, width, factor, least, most)) == size


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 4000), height=st.integers(1, 4000))
def test_any_picture_has_a_grid_within_the_limits_or_is_refused(width, height):
    layout = layout_of(counts=True)
    try:
        tokens = layout.grid(height, width).tokens
    except PictureError:
        assert max(width, height) > 200 * min(width, height)
        return
    assert 1 <= tokens.tokens <= layout.config.patches


def test_narrow_pictures_are_refused_where_they_would_take_more_tokens_than_there_are():
    """transformers gives a picture of 4 x 800 pixels 29 tokens where 16 are allowed."""
    few = layout_of(counts=True, max_pixels=16 * 784)
    assert smart_size(4, 800, 28, 3136, 16 * 784) == (28, 29 * 28)
    with pytest.raises(PictureError, match="800x4 pixels is too narrow"):
        few.grid(4, 800)


def test_a_picture_takes_its_budget_or_all_that_it_has():
    layout = layout_of()
    grid = layout.grid(100, 140)
    assert grid.tokens == TokenGrid(4, 5)
    assert layout.token_grid(grid) == TokenGrid(4, 5)
    for budget, slots in ((1, 1), (19, 19), (20, 20), (21, 20), (200, 20)):
        ids = layout.expand(grid, budget)
        assert ids.tolist() == [IMAGE_TOKEN] * slots
        assert slot_count(layout, ids) == slots
    assert tokens_before(layout, grid) == 20
    features = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_array_equal(
        layout.arrange(grid, features, np.array([[1, 2, 9]]), {}), features[0]
    )
    assert layout.one_grid


def test_the_largest_grid_is_as_square_as_its_tokens_allow():
    assert [grid.tokens for grid in layout_of().grids()] == [TokenGrid(10, 20)]
    assert layout_of().largest_size() == (280, 560)
    assert layout_of().grid(280, 560) == layout_of().grids()[0]
    prime = layout_of(counts=True, max_pixels=257 * 784)
    assert prime.grids()[0].tokens == TokenGrid(16, 16)
    one = layout_of(counts=True, max_pixels=784, min_pixels=784)
    assert one.grids()[0].tokens == TokenGrid(1, 1)


def test_smaller_pictures_can_be_asked_for():
    layout = layout_of()
    smaller = layout.capped(max_pixels=20 * 784)
    assert smaller.grid(480, 640).tokens == TokenGrid(3, 5)
    assert smaller.cut(picture(640, 480)).pixel_values.shape == (1, 3, 84, 140)
    assert layout.capped(max_pixels=784).grid(500, 500).tokens == TokenGrid(1, 1)
    for refused in (783, 200 * 784 + 1, -1):
        with pytest.raises(
            RequestError, match=rf"max_pixels {refused}: expected 784..156800"
        ) as caught:
            layout.capped(max_pixels=refused)
        assert caught.value.setting == "max_pixels"
    with pytest.raises(RequestError, match="max_tiles is nothing that the layout smart-resize has"):
        layout.capped(max_tiles=2)


def test_a_fixed_size_is_that_of_every_picture():
    layout = fixed()
    for size in ((1, 1), (640, 480), (4000, 3)):
        tiles = layout.cut(picture(*size))
        assert tiles.pixel_values.shape == (1, 3, 56, 84)
        assert tiles.grid == TileGrid(tokens=TokenGrid(2, 3))
    assert layout.grids() == [TileGrid(tokens=TokenGrid(2, 3))]
    assert layout.largest_size() == (56, 84)
    assert "56 x 84" in layout.recipe
    with pytest.raises(RequestError, match="fixed size"):
        layout.capped(max_pixels=784)
    exact = picture(84, 56)
    expected, _ = theirs(exact, QWEN2)
    np.testing.assert_array_equal(patches_of(layout.cut(exact).pixel_values[0], QWEN2), expected)


def test_an_export_may_ask_for_smaller_pictures_than_the_processor():
    layout = layout_of(max_pixels=64 * 784)
    assert layout.grid(4000, 4000).tokens == TokenGrid(8, 8)
    old = {**QWEN2, "size": None, "min_pixels": 3136, "max_pixels": 200 * 784}
    config = layout.config
    assert make_layout(config, old).max_pixels == 64 * 784
    lower = {"min_pixels": 784, "max_pixels": 1000}  # a minimum near the cap would go over it
    options = {"name": "smart-resize", "factor": 28, **lower}
    assert make_layout(dataclasses.replace(config, options=options), QWEN2).min_pixels == 784


@pytest.mark.parametrize(
    "change",
    [
        {"factor": 0},
        {"factor": 28.0},
        {"factor": None},
        {"min_pixels": 0},
        {"min_pixels": 10**6},
        {"max_pixels": 783, "min_pixels": 1},
        {"max_pixels": 10**12},
        {"max_pixels": "many"},
        {"max_pixels": True},
        {"size": [56, 84]},
        {"size": 56},
    ],
)
def test_hostile_options_are_refused(change):
    options = {"name": "smart-resize", "factor": 28, "min_pixels": 3136, "max_pixels": 156800}
    config = LayoutConfig(None, 200, IMAGE_TOKEN, {**options, **change})
    with pytest.raises(PocketVLMError, match="the layout"):
        make_layout(config)


@pytest.mark.parametrize("size", [[84, 56], [56], [56.5, 84], 56, "56x84", [0, 0]])
def test_another_fixed_size_than_the_graphs_is_refused(size):
    config = fixed().config
    options = {**config.options, "size": size}
    with pytest.raises(PocketVLMError, match=r"the layout makes pictures.*\[56, 84\]"):
        make_layout(dataclasses.replace(config, options=options))


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 16},
        {"patch_size": "large"},
        {"merge_size": 1},
        {"size": {"shortest_edge": 3136, "longest_edge": 1000}},
        {"size": {"shortest_edge": 784, "longest_edge": 200 * 784}},
        {"size": {"height": 56, "width": 56}, "max_pixels": 100},
        {"size": {"shortest_edge": 3136, "longest_edge": 1e9}},
        {"size": "large"},
        {"max_pixels": 1000},
        {"do_resize": False},
        {"image_processor_type": "CLIPImageProcessor"},
    ],
)
def test_another_processor_than_the_layouts_is_refused(change):
    with pytest.raises(PocketVLMError, match="image processor"):
        make_layout(layout_of().config, {**QWEN2, **change})


def test_a_graph_of_one_size_needs_the_layout_to_say_so():
    config = dataclasses.replace(layout_of().config, image_size=(56, 84))
    with pytest.raises(PocketVLMError, match="the layout any number"):
        make_layout(config)


def test_the_recipe_names_what_a_client_needs():
    recipe = layout_of().recipe
    for said in ("bicubic", "f = 28", "h w > 156800", "h w < 3136", "at most 200 times"):
        assert said in recipe
