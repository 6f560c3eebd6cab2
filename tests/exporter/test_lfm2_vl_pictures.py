"""LFM2-VL's pictures: the processor on Pillow and the runtime's layout, against vectors that
transformers' own class made with torchvision.

``lfm2_vl_pictures.json`` is of transformers 5.23's `Lfm2VlImageProcessor` with its defaults under
torchvision 0.28, whose compiled operators were declared and not needed. Of each picture, as
`picture` draws it: rows and columns of the tiles, (height, width) of the whole, rows and columns of
patches of each part, the mean of each part's values, and 48 values as levels of 255 at the places
that ``numpy.random.default_rng(7).integers(0, size of pixel_values, 48)`` draws. Resized samples of
torchvision and Pillow differ by one level in at most 0.3 % of the samples of these pictures, and in
2 % of pictures of noise.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor

from pocketvlm.errors import ArtifactError, PictureError, RequestError
from pocketvlm.layouts import LayoutConfig, TileGrid, TokenGrid, make_layout
from pocketvlm_export.families.lfm2_vl_pictures import (
    Lfm2VlImageProcessor,
    patches_of,
    picture_of,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "lfm2_vl_pictures.json").read_text())
TOKEN = 32 * 32  # pixels
STATED = {
    "name": "marked-resize",
    "factor": 32,
    "min_pixels": 64 * TOKEN,
    "max_pixels": 256 * TOKEN,
    "before": [498],
    "after": [499],
}
PROCESSOR = json.loads(Lfm2VlImageProcessor(do_image_splitting=False).to_json_string())


def config(**changed):
    return LayoutConfig(None, 256, 396, STATED | changed)


@pytest.fixture(scope="module")
def layout():
    return make_layout(config(), PROCESSOR)


def picture(height, width):
    random = np.random.default_rng(1000 * height + width)
    blocks = random.integers(0, 256, (min(height, 31), min(width, 37), 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: "x".join(map(str, golden["size"])))
def test_the_processor_on_pillow_is_transformers_to_a_level(golden):
    made = Lfm2VlImageProcessor()(
        images=[picture(*golden["size"])], return_tensors="np", return_row_col_info=True
    )
    assert made["spatial_shapes"].tolist() == golden["shapes"]
    assert (made["image_rows"][0], made["image_cols"][0]) == (golden["rows"], golden["columns"])
    assert list(made["image_sizes"][0]) == golden["whole"]
    assert made["pixel_attention_mask"].sum(axis=1).tolist() == [
        rows * columns for rows, columns in golden["shapes"]
    ]
    values = made["pixel_values"]
    places = np.random.default_rng(7).integers(0, values.size, 48)
    levels = values.ravel()[places] * 127.5 + 127.5
    assert np.abs(levels - golden["levels"]).max() <= 1 + 1e-3
    means = [
        part[: rows * columns].mean()
        for part, (rows, columns) in zip(values, golden["shapes"], strict=True)
    ]
    np.testing.assert_allclose(means, golden["mean"], atol=1e-4)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: "x".join(map(str, golden["size"])))
def test_the_layout_makes_the_whole_picture_that_the_processor_makes(layout, golden):
    image = picture(*golden["size"])
    tiles = layout.cut(image)
    assert list(tiles.pixel_values.shape[2:]) == golden["whole"]
    made = Lfm2VlImageProcessor(do_image_splitting=False)(images=[image], return_tensors="np")
    rows, columns = made["spatial_shapes"][0].tolist()
    theirs = picture_of(made["pixel_values"][0], rows, columns)
    np.testing.assert_array_equal(tiles.pixel_values[0], theirs)
    assert tiles.grid == layout.grid(*golden["size"])
    assert tiles.grid.tokens == TokenGrid(rows // 2, columns // 2)
    assert layout.views(image).shape == (1, *golden["whole"], 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_sizes_are_those_of_the_processor_and_within_the_limits(layout, height, width):
    processor = Lfm2VlImageProcessor(do_image_splitting=False)
    blank = Image.new("RGB", (width, height))
    made = processor(images=[blank], return_tensors="np", return_row_col_info=True, do_pad=False)
    size = tuple(made["image_sizes"][0])
    if size[0] * size[1] > 256 * TOKEN:
        with pytest.raises(PictureError, match="too narrow"):
            layout.resized(height, width)
        return
    assert layout.resized(height, width) == size
    tokens = layout.grid(height, width).tokens
    assert tokens.rows * 32, tokens.columns * 32 == size
    ids = layout.expand(layout.grid(height, width), 40)
    assert (ids[0], ids[-1]) == (498, 499)
    assert (ids[1:-1] == 396).all()
    assert len(ids) == 2 + min(40, tokens.tokens)


def test_patches_are_put_together_again():
    pixels = np.random.default_rng(0).normal(size=(3, 24, 40)).astype(np.float32)
    patches = patches_of(pixels, 8)
    assert patches.shape == (15, 192)
    np.testing.assert_array_equal(
        patches[1].reshape(8, 8, 3), pixels[:, :8, 8:16].transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(picture_of(patches, 3, 5), pixels)


def test_transformers_finds_the_class_by_its_published_name(tmp_path):
    stated = {"image_processor_type": "Lfm2VlImageProcessorFast", "max_image_tokens": 128}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(processor) is Lfm2VlImageProcessor
    assert (processor.max_image_tokens, processor.min_image_tokens) == (128, 64)


def test_smaller_pictures(layout):
    small = layout.capped(max_pixels=100 * TOKEN)
    assert small.caps == {"max_pixels": 100 * TOKEN}
    height, width = small.resized(1000, 1000)
    assert height * width <= 100 * TOKEN
    assert small.expand(small.grid(1000, 1000), 5).tolist() == [498, *[396] * 5, 499]
    with pytest.raises(RequestError, match="max_pixels"):
        layout.capped(max_pixels=257 * TOKEN)


def test_a_fixed_size():
    fixed = LayoutConfig(
        (64, 96),
        6,
        396,
        {"name": "marked-resize", "factor": 32, "size": [64, 96], "before": [1], "after": []},
    )
    layout = make_layout(fixed, PROCESSOR)
    assert layout.cut(picture(50, 70)).pixel_values.shape == (1, 3, 64, 96)
    assert layout.expand(TileGrid(tokens=TokenGrid(2, 3)), 4).tolist() == [1, *[396] * 4]
    assert "image_features" in layout.recipe


def test_the_page_says_what_is_done(layout):
    for said in ("f = 32", "262144", "65536", "`[498]`", "`[499]`", "bilinear", "at most 256"):
        assert said in layout.recipe
    assert layout.summary == "any size up to 262144 pixels, at most 256 tokens"


@pytest.mark.parametrize(
    "changed",
    [
        {"before": [396]},
        {"after": "x"},
        {"after": [-1]},
        {"before": [True]},
        {"before": [1] * 65},
        {"factor": 0},
        {"max_pixels": 10},
    ],
)
def test_damaged_options_are_refused(changed):
    with pytest.raises(ArtifactError):
        make_layout(config(**changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"max_image_tokens": 128},
        {"encoder_patch_size": 8},
        {"min_image_tokens": "many"},
        {"image_processor_type": "CLIPImageProcessor"},
    ],
)
def test_another_processor_is_refused(changed):
    with pytest.raises(ArtifactError):
        make_layout(config(), PROCESSOR | changed)
