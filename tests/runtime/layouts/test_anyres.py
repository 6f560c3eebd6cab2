"""LLaVA-NeXT's tiles and the two ways to put them together, against transformers and torch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from pocketvlm import PocketVLMError
from pocketvlm.layouts import LayoutConfig, make_layout, tokens_before
from support.noise import picture

TILE, PATCH = 28, 7
SIDE = TILE // PATCH
N = SIDE**2
GRIDS = [
    (2, 2),
    (1, 2),
    (2, 1),
    (3, 1),
    (1, 3),
]  # the first is not the smallest: ties are decided by waste
PINPOINTS = [[rows * TILE, columns * TILE] for rows, columns in GRIDS]
CONFIG = {
    "image_processor_type": "LlavaNextImageProcessor",
    "size": {"shortest_edge": TILE},
    "crop_size": {"height": TILE, "width": TILE},
    "image_grid_pinpoints": PINPOINTS,
}
THEIRS = LlavaNextImageProcessorPil(
    size=CONFIG["size"], crop_size=CONFIG["crop_size"], image_grid_pinpoints=PINPOINTS
)
COUNTING = SimpleNamespace(
    image_processor=THEIRS,
    patch_size=PATCH,
    num_additional_image_tokens=1,
    _get_unpadded_features=lambda *sizes: LlavaNextProcessor._get_unpadded_features(None, *sizes),
)
MODEL = SimpleNamespace(
    config=SimpleNamespace(
        vision_config=SimpleNamespace(image_size=TILE, patch_size=PATCH),
        image_grid_pinpoints=PINPOINTS,
    )
)
IMAGE_TOKEN = 3
# (width, height): even and odd, exact grids, a pixel, slivers, beside a change of grid, just short
# of an integer
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
    (13, 40),
]
SIZES += [(47, 188), (188, 47)]
sizes = st.tuples(st.integers(1, 200), st.integers(1, 200))


def layout(name, **options):
    setting = LayoutConfig(
        (TILE, TILE), N, IMAGE_TOKEN, {"name": name, "pinpoints": PINPOINTS, **options}
    )
    return make_layout(setting, CONFIG)


HF, FASTERVLM = layout("anyres-hf"), layout("anyres-fastervlm")


def cases(test):
    for size in SIZES:
        test = example(size)(test)
    return settings(max_examples=60, deadline=None)(given(sizes)(test))


def numbered(grid):
    """Features that say where they are from: tile * N + patch, (tiles, N, 1)."""
    return np.arange(grid.tiles * N, dtype=np.float32).reshape(grid.tiles, N, 1)


def kept_of(grid, budget, seed=0):
    rng = np.random.default_rng(seed)
    return np.sort(np.stack([rng.permutation(N)[:budget] for _ in range(grid.tiles)]), axis=1)


def sequence(layout, grid, kept):
    newline = {"image_newline": np.array([-1], np.float32)}
    picked = np.take_along_axis(numbered(grid), kept[:, :, None], axis=1)
    return layout.arrange(grid, picked, kept, newline)[:, 0].astype(int).tolist()


def packed(width, height, tiles):
    """The whole sequence as transformers packs it, newlines as -1."""
    numbers = torch.arange(tiles * N, dtype=torch.float32).reshape(tiles, N, 1)
    (features,), _ = LlavaNextModel.pack_image_features(
        MODEL, [numbers], [(height, width)], "default", image_newline=torch.tensor([-1.0])
    )
    return features[:, 0].int().tolist()


def stitched(grid):
    """FasterVLM's order of all tokens: (rows, columns, side, side) is permuted to (rows, side,
    columns, side)."""
    numbers = torch.arange(grid.tiles * N).reshape(grid.tiles, N)
    parts = numbers[1:].view(grid.rows, grid.columns, SIDE, SIDE).permute(0, 2, 1, 3)
    return [*numbers[0].tolist(), *parts.flatten().tolist()]


@cases
def test_tiles_equal_those_of_transformers(size):
    image = picture(*size)
    expected = THEIRS(image, return_tensors="np")
    tiles = HF.cut(image)
    assert tiles.pixel_values.shape == expected["pixel_values"][0].shape
    assert np.abs(tiles.pixel_values - expected["pixel_values"][0]).max() < 1e-5
    assert tiles.grid.size == tuple(expected["image_sizes"][0])
    np.testing.assert_array_equal(FASTERVLM.cut(image).pixel_values, tiles.pixel_values)
    assert HF.views(image).shape == (tiles.grid.tiles, TILE, TILE, 3)


def test_tiles_of_real_size_equal_those_of_transformers():
    config = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    theirs = LlavaNextImageProcessorPil(**config)
    pinpoints = [list(size) for size in theirs.image_grid_pinpoints]
    ours = make_layout(
        LayoutConfig((336, 336), 576, 0, {"name": "anyres-hf", "pinpoints": pinpoints}),
        {"image_processor_type": "LlavaNextImageProcessor", **config},
    )
    for size in [(672, 672), (640, 427), (300, 900), (1, 1000)]:
        image = picture(*size)
        expected = theirs(image, return_tensors="np")["pixel_values"][0]
        assert np.abs(ours.cut(image).pixel_values - expected).max() < 1e-5
    assert [(str(grid), tokens_before(ours, grid)) for grid in ours.grids()] == [
        ("1x2", 1752),  # 576 + 24 rows of 48 and a newline
        ("2x1", 1776),
        ("1x3", 2328),
        ("3x1", 2376),
        ("2x2", 2928),
    ]
    plain = make_layout(
        LayoutConfig((336, 336), 576, 0, {"name": "anyres-fastervlm", "pinpoints": pinpoints})
    )
    assert [tokens_before(plain, grid) for grid in plain.grids()] == [1728, 1728, 2304, 2304, 2880]


@cases
def test_unpruned_sequences_equal_those_of_transformers(size):
    width, height = size
    grid = HF.grid(height, width)
    every = np.tile(np.arange(N), (grid.tiles, 1))
    expected = packed(width, height, grid.tiles)
    assert sequence(HF, grid, every) == expected
    slots = HF.expand(grid, N, every)
    assert slots.tolist() == [IMAGE_TOKEN] * len(expected)
    # and as many as transformers' processor puts into the prompt, less one for the [CLS] that
    # "default" leaves out
    assert (
        len(slots)
        == LlavaNextProcessor._get_number_of_features(COUNTING, height, width, TILE, TILE) - 1
    )
    assert tokens_before(HF, grid) == len(expected) <= len(HF.expand(grid, N))


@cases
def test_pruned_sequences_are_what_pruning_leaves(size):
    width, height = size
    for budget in (1, 5, N - 1):
        grid = HF.grid(height, width)
        kept = kept_of(grid, budget, seed=width)
        survivors = {int(tile * N + patch) for tile, row in enumerate(kept) for patch in row} | {-1}
        arranged = sequence(HF, grid, kept)
        assert arranged == [
            number for number in packed(width, height, grid.tiles) if number in survivors
        ]
        assert len(HF.expand(grid, budget, kept)) == len(arranged) <= len(HF.expand(grid, budget))

        grid = FASTERVLM.grid(height, width)
        arranged = sequence(FASTERVLM, grid, kept)
        assert arranged == [number for number in stitched(grid) if number in survivors]
        assert len(FASTERVLM.expand(grid, budget)) == len(arranged) == budget * grid.tiles


def test_without_pruning_fastervlm_keeps_every_token_and_no_newline():
    grid = FASTERVLM.grid(40, 70)
    every = np.tile(np.arange(N), (grid.tiles, 1))
    assert sequence(FASTERVLM, grid, every) == stitched(grid)


@pytest.mark.parametrize(
    ("pinpoints", "config"),
    [
        ([], {}),
        (None, {}),
        ([[TILE, TILE + 1]], {}),
        ([[0, TILE]], {}),
        ([[-TILE, -TILE]], {}),
        ([[TILE * 11, TILE * 10]], {}),
        ([[float(TILE), TILE]], {}),
        ([[TILE, TILE, TILE]], {}),
        (PINPOINTS, {"image_grid_pinpoints": PINPOINTS[1:]}),
        (PINPOINTS, {"do_resize": False}),
        (PINPOINTS, {"image_processor_type": "CLIPImageProcessor"}),
        (PINPOINTS, {"crop_size": {"height": 14, "width": 14}}),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(pinpoints, config):
    setting = LayoutConfig(
        (TILE, TILE), N, IMAGE_TOKEN, {"name": "anyres-hf", "pinpoints": pinpoints}
    )
    with pytest.raises(PocketVLMError):
        make_layout(setting, {**CONFIG, **config})


@pytest.mark.parametrize("made", [HF, FASTERVLM])
def test_fewer_tiles_choose_among_the_smaller_pinpoints(made):
    fewer = made.capped(max_tiles=2)
    assert [str(grid) for grid in fewer.grids()] == ["1x2", "2x1"]
    assert fewer.cut(picture(200, 30)).grid.tiles == 3
    assert made.cut(picture(200, 30)).grid.tiles == 4
    for refused in (1, 5):
        with pytest.raises(PocketVLMError, match=rf"max_tiles {refused}: expected 2..4"):
            made.capped(max_tiles=refused)
    with pytest.raises(PocketVLMError, match="max_pixels is nothing that the layout anyres"):
        made.capped(max_pixels=100_000)


def test_an_export_may_leave_pinpoints_out():
    """Then the processor's configuration lists more than the manifest."""
    config = LayoutConfig(
        (TILE, TILE), N, IMAGE_TOKEN, {"name": "anyres-hf", "pinpoints": PINPOINTS[1:3]}
    )
    assert len(make_layout(config, CONFIG).grids()) == 2
    for other in (PINPOINTS[2:], [], 5, "56x56"):
        with pytest.raises(PocketVLMError, match="the two configurations are of two models"):
            make_layout(config, {**CONFIG, "image_grid_pinpoints": other})
