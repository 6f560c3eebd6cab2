"""LLaVA-OneVision's tiles, alone and beside other pictures, against transformers and golden
vectors."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import LlavaOnevisionProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.layouts import (
    LayoutConfig,
    layout_among,
    make_layout,
    slot_count,
    tokens_before,
)
from support.golden import DATA
from support.noise import picture
from support.published_pixels import assert_as_published, blocks, rows_of

TILE, PATCH, IMAGE_TOKEN, HIDDEN = 28, 7, 3, 8
SIDE = TILE // PATCH
N = SIDE**2
PINPOINTS = [[TILE * rows, TILE * columns] for rows in range(1, 7) for columns in range(1, 7)]
MEAN = [0.5, 0.4, 0.3]
CONFIG = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": TILE, "width": TILE},
    "image_mean": MEAN,
    "image_std": [0.5, 0.5, 0.5],
    "image_grid_pinpoints": PINPOINTS,
}
THEIRS = LlavaOnevisionImageProcessorPil(
    **{key: value for key, value in CONFIG.items() if key != "image_processor_type"}
)
NEWLINE = np.arange(HIDDEN, dtype=np.float32) / 7
# (width, height): exact grids, slivers, a pixel, maps around the size from which on they shrink
SIZES = [(168, 168), (56, 28), (1, 1), (1, 500), (700, 1), (160, 110), (168, 84), (169, 84)]
SIZES += [(84, 112), (112, 83), (117, 101), (4000, 3000)]
sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))


def layout_of(pinpoints=None, processor=CONFIG, **options):
    stated = {
        "name": "anyres-max",
        "pinpoints": PINPOINTS if pinpoints is None else pinpoints,
        "most_tiles": 9,
    }
    return make_layout(LayoutConfig((TILE, TILE), N, IMAGE_TOKEN, {**stated, **options}), processor)


ALONE = layout_of()


def cases(test):
    for size in SIZES:
        test = example(size)(test)
    return settings(max_examples=40, deadline=None)(given(sizes)(test))


def packed(tiles, size, newline=NEWLINE):
    """As transformers packs the features (tiles, N, HIDDEN) of a picture of (height, width)."""
    vision = SimpleNamespace(image_size=TILE, patch_size=PATCH)
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=PINPOINTS)
    (features,), _ = LlavaOnevisionModel.pack_image_features(
        SimpleNamespace(config=config),
        [torch.from_numpy(tiles)],
        [size],
        image_newline=torch.from_numpy(newline),
        vision_aspect_ratio="anyres_max_9",
    )
    return features.numpy()


def arranged(layout, grid, tiles, kept=None, newline=NEWLINE):
    every = np.tile(np.arange(N), (len(tiles), 1))
    kept = every if kept is None else kept
    picked = np.take_along_axis(tiles, kept[:, :, None], axis=1)
    rows = layout.arrange(grid, picked, kept, {"image_newline": newline})
    assert rows.dtype == np.float32
    assert slot_count(layout, layout.expand(grid, kept.shape[1], kept)) == len(rows)
    return rows


def tiles_of(grid, seed=0):
    shape = (grid.tiles, N, HIDDEN)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("number", range(4))
def test_golden_vectors(number):
    golden = np.load(DATA / "onevision_pack.npz")
    assert golden["pinpoints"].tolist() == PINPOINTS
    height, width = golden[f"size{number}"].tolist()
    grid = ALONE.grid(height, width)
    assert grid.tiles == golden[f"tiles{number}"]
    tiles = tiles_of(grid, seed=number)
    expected = golden[f"packed{number}"]
    result = arranged(ALONE, grid, tiles, newline=golden["image_newline"])
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    assert tokens_before(ALONE, grid) == len(expected)


@cases
def test_every_token_kept_is_what_transformers_packs(size):
    width, height = size
    grid = ALONE.grid(height, width)
    tiles = tiles_of(grid)
    np.testing.assert_allclose(
        arranged(ALONE, grid, tiles), packed(tiles, (height, width)), rtol=0, atol=1e-5
    )


@cases
def test_slots_are_those_that_the_processor_counts(size):
    width, height = size
    theirs = LlavaOnevisionProcessor._get_number_of_features(
        SimpleNamespace(
            image_processor=THEIRS,
            num_image_tokens=N,
            vision_aspect_ratio="anyres_max_9",
            _get_unpadded_features=lambda *given: LlavaOnevisionProcessor._get_unpadded_features(
                SimpleNamespace(vision_aspect_ratio="anyres_max_9"), *given
            ),
        ),
        height, width, TILE, TILE,
    )  # fmt: skip
    grid = ALONE.grid(height, width)
    assert tokens_before(ALONE, grid) == theirs
    by_shape = next(each for each in ALONE.grids() if str(each) == str(grid))
    for budget in (1, 5, N):  # a picture never takes more slots than its grid is said to at most
        kept = np.tile(np.arange(budget), (grid.tiles, 1))
        slots = slot_count(ALONE, ALONE.expand(grid, budget, kept))
        assert slots <= slot_count(ALONE, ALONE.expand(by_shape, budget))


@cases
def test_pruned_nothing_is_mixed(size):
    """Tokens that are chosen stay what they are, in the order of the whole map, each row ended."""
    width, height = size
    grid = ALONE.grid(height, width)
    numbers = np.arange(grid.tiles * N, dtype=np.float32).reshape(grid.tiles, N, 1)
    rng = np.random.default_rng(width)
    kept = np.sort(np.stack([rng.permutation(N)[:5] for _ in range(grid.tiles)]), axis=1)
    rows = arranged(ALONE, grid, numbers, kept, newline=np.array([-1], np.float32))[:, 0]
    unshrunk = layout_of(most_tiles=36)
    every = arranged(unshrunk, grid, numbers, newline=np.array([-1], np.float32))[:, 0]
    left = {*(kept + N * np.arange(grid.tiles)[:, None]).ravel().tolist(), -1}
    assert rows.tolist() == [number for number in every.tolist() if number in left]


@cases
def test_pixels_equal_those_of_transformers(size):
    image = picture(*size)
    ours, theirs = ALONE.cut(image), THEIRS([[image]], return_tensors="np")
    assert theirs["batch_num_images"].tolist() == [1]
    np.testing.assert_array_equal(ours.pixel_values, theirs["pixel_values"][0])
    views = (ALONE.views(image) / 255 - np.array(MEAN)) / 0.5
    np.testing.assert_allclose(views.transpose(0, 3, 1, 2), ours.pixel_values, atol=1e-6)


@cases
def test_several_pictures_are_one_square_each(size):
    several = layout_among(ALONE, 2)
    assert layout_among(ALONE, 3) is several
    assert layout_among(ALONE, 1) is ALONE
    assert several.several is several
    image, other = picture(*size), picture(40, 30)
    theirs = THEIRS([[image, other]], return_tensors="np")
    assert theirs["batch_num_images"].tolist() == [2]
    for ours, expected in zip((image, other), theirs["pixel_values"], strict=True):
        np.testing.assert_array_equal(several.cut(ours).pixel_values, expected)
    grid = several.grid(size[1], size[0])
    tiles = tiles_of(grid)
    np.testing.assert_array_equal(arranged(several, grid, tiles), packed(tiles, size[::-1]))
    kept = np.array([[1, 4, 9]])
    pruned = arranged(several, grid, tiles, kept)
    np.testing.assert_array_equal(pruned, [*tiles[0, [1, 4, 9]], NEWLINE])


@settings(max_examples=30, deadline=None)
@given(size=sizes, most=st.integers(1, 36))
def test_capped_pinpoints_are_those_with_few_tiles(size, most):
    width, height = size
    image = picture(width, height)
    capped = ALONE.capped(max_tiles=most)
    allowed = [each for each in PINPOINTS if each[0] * each[1] <= most * TILE * TILE]
    assert [list(each) for each in capped.pinpoints] == allowed
    theirs = THEIRS([[image]], image_grid_pinpoints=allowed, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(capped.cut(image).pixel_values, theirs[0])
    assert capped.grid(height, width).tiles <= most + 1
    assert capped.caps == {"max_tiles": max(a * b // TILE**2 for a, b in allowed)}
    assert layout_among(capped, 2).grids()[-1].tiles == 1


def test_pixels_as_published():
    """Pixels of other machines: those that the golden vectors were made with."""
    edge = 56
    pinpoints = [[edge * a, edge * b] for a in range(1, 4) for b in range(1, 4)]
    processor = {
        "image_processor_type": "LlavaOnevisionImageProcessorFast",
        "size": {"height": edge, "width": edge},
        "image_grid_pinpoints": pinpoints,
    }
    options = {"name": "anyres-max", "pinpoints": pinpoints, "most_tiles": 9}
    layout = make_layout(LayoutConfig((edge, edge), 16, IMAGE_TOKEN, options), processor)
    rows = rows_of("llava_onevision")
    assert rows
    for row in rows:
        pixels = layout.cut(blocks(row["width"], row["height"])).pixel_values
        assert_as_published(pixels[None], row)


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None, "9", 10**6])
def test_damaged_options_are_refused(most):
    with pytest.raises(PocketVLMError, match="most_tiles"):
        layout_of(most_tiles=most)


def test_other_settings_are_refused():
    other = LayoutConfig((TILE, TILE), N, IMAGE_TOKEN, {"name": "squared", "newline": "yes"})
    with pytest.raises(PocketVLMError, match="newline"):
        make_layout(other)
    with pytest.raises(PocketVLMError, match="two models"):
        layout_of(pinpoints=[[TILE, 7 * TILE]])
    with pytest.raises(PocketVLMError, match="do_resize"):
        layout_of(processor={**CONFIG, "do_resize": False})
    with pytest.raises(PocketVLMError, match="LlavaNextImageProcessor"):
        layout_of(processor={**CONFIG, "image_processor_type": "LlavaNextImageProcessor"})
    with pytest.raises(RequestError, match="max_pixels"):
        ALONE.capped(max_pixels=100)
    with pytest.raises(RequestError, match="max_tiles"):
        ALONE.several.capped(max_tiles=1)


def test_it_describes_itself():
    assert "one square tile each" in ALONE.summary
    recipe = ALONE.recipe
    assert "[127, 102, 76]" in recipe
    assert "bilinear" in recipe
    assert "bilinear interpolation" not in layout_of().capped(max_tiles=4).recipe
    assert ALONE.steps.pad_colour is None
    assert ALONE.several.steps.pad_colour == (127, 102, 76)
    assert math.prod(ALONE.largest_size()) == 36 * TILE**2
    standing = LayoutConfig((TILE, TILE), N, IMAGE_TOKEN, {"name": "squared"})
    plain = make_layout(standing, CONFIG)
    assert plain.constants == ()
    assert slot_count(plain, plain.expand(plain.grid(1, 1), 5)) == 5
