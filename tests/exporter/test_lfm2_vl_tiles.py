"""LFM2-VL's tiles and thumbnail without any export: pixels against the image processor on Pillow,
ids against transformers' processor, for pictures of any size and the limits of an export."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvlm.errors import PictureError
from pocketvlm.layouts import LayoutConfig, make_layout, tokens_of_tiles
from pocketvlm_export.caps import Caps
from pocketvlm_export.families.lfm2_vl_pictures import Lfm2VlImageProcessor, picture_of
from pocketvlm_export.layouts import setting
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.packaging.sidecars import write_sidecars
from pocketvlm_export.planning import make_plan
from support.lfm2_vl import noise
from support.processors import processor_of

TOKEN = 32 * 32  # pixels
# (tiles at least, at most, thumbnail), the published ones first.
CUTTINGS = [(2, 10, True), (2, 4, True), (2, 3, True), (3, 3, False), (2, 2, True)]


def pair(least, most, thumbnail):
    """The runtime's layout of published dimensions, and the processor."""
    processor = Lfm2VlImageProcessor(min_tiles=least, max_tiles=most, use_thumbnail=thumbnail)
    options = {
        "name": "tiles-and-thumbnail",
        "factor": 32,
        "min_pixels": 64 * TOKEN,
        "max_pixels": 256 * TOKEN,
        "tile": 512,
        "min_tiles": least,
        "max_tiles": most,
        "cut_above": 512 * TOKEN,
        "patch": 16,
        "thumbnail": thumbnail,
        "before": [498],
        "after": [499],
        "whole": [497],
        "parts": [[[500 + 10 * row + column] for column in range(most)] for row in range(most)],
    }
    stated = json.loads(processor.to_json_string())
    return make_layout(LayoutConfig(None, 256, 396, options), stated), processor


def seen_by(processor, image):
    """Tiles by transformers' steps, and rows and columns of the parts."""
    made = processor(images=[image], return_tensors="np", return_row_col_info=True)
    shapes = made["spatial_shapes"].tolist()
    parts = [
        picture_of(rows, *shape) for rows, shape in zip(made["pixel_values"], shapes, strict=True)
    ]
    return parts, (made["image_rows"][0], made["image_cols"][0])


def assert_same_pixels(layout, processor, image):
    theirs, grid = seen_by(processor, image)
    tiles = layout.cut(image)
    ours = [tile for batch in tiles.batches for tile in batch]
    assert (tiles.grid.rows, tiles.grid.columns) == grid
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() == 0.0
    tokens = [tile.shape[1] * tile.shape[2] // layout.factor**2 for tile in ours]
    assert tokens_of_tiles(layout, tiles.grid) == tokens
    assert [view.shape[:2] for view in layout.views(image)] == [tile.shape[1:] for tile in ours]
    for budget in (9, 1000):
        slots = (layout.expand(tiles.grid, budget) == 396).sum()
        assert slots == sum(min(budget, count) for count in tokens)


@pytest.mark.parametrize("cutting", CUTTINGS, ids=str)
@pytest.mark.parametrize(
    "size",
    [
        # 5 to 4, which is as near to 1 x 2 tiles as to 2 x 1.
        (1000, 800),
        (800, 1000),
        (1024, 512),  # 512 tokens, which are not too many
        (1025, 530),
        (900, 1400),
        (120, 2600),  # 22 to 1
        (40, 30),
    ],
)
def test_pixels_have_no_difference(cutting, size):
    layout, processor = pair(*cutting)
    random = np.random.default_rng(size[0])
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert_same_pixels(layout, processor, Image.fromarray(pixels))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1600), st.integers(1, 1600), st.sampled_from(CUTTINGS))
def test_pictures_of_any_size_are_cut_as_the_processor_cuts_them(width, height, cutting):
    layout, processor = pair(*cutting)
    image = Image.effect_noise((width, height), 90).convert("RGB")
    try:
        layout.grid(height, width)
    except PictureError:
        _, whole = processor_sizes(processor, image)
        assert whole[0] * whole[1] > 256 * TOKEN
        return
    assert_same_pixels(layout, processor, image)


def processor_sizes(processor, image):
    made = processor(images=[image], do_pad=False, return_row_col_info=True)
    return made["image_rows"][0], made["image_sizes"][0]


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return open_checkpoint(str(make_tiny("tiny-lfm2-vl")))


@pytest.mark.parametrize(
    "caps",
    [
        {},
        {"max_tiles": 10},
        {"max_pixels": 45 * 28 * 28},
        {"max_pixels": 12 * 28 * 28, "max_tiles": 2},
    ],
    ids=str,
)
def test_the_artifacts_files_make_transformers_cut_alike(checkpoint, tmp_path, caps):
    """Under every cap of an export: pixels, and the ids of a prompt with several pictures."""
    plan = make_plan(checkpoint, ExportOptions("divprune", caps=Caps(**caps)))
    folder = tmp_path / "artifact"
    folder.mkdir()
    write_sidecars(plan, folder)
    processor = processor_of(folder)
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    layout = make_layout(setting(plan.spec, plan.layout), stated)
    images = [noise(9, 18), noise(3, 4), noise(8, 16), noise(15, 9), noise(12, 12)]
    for image in images:
        theirs, grid = seen_by(processor.image_processor, image)
        tiles = layout.cut(image)
        assert (tiles.grid.rows, tiles.grid.columns) == grid
        ours = [tile for batch in tiles.batches for tile in batch]
        assert [np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True)] == [
            0.0
        ] * len(theirs)
    grids = [layout.grid(image.height, image.width) for image in images]
    assert any(grid.tiles > 1 for grid in grids)
    assert any(grid.tiles == 1 for grid in grids)
    ids = [layout.expand(grid, plan.spec.vision.tokens).tolist() for grid in grids]
    made = processor(images=images, text="<image>" * len(images))["input_ids"]
    assert list(itertools.chain(*ids)) == (made[0] if isinstance(made[0], list) else made)
