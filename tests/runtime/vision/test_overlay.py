"""The drawing: kept patches in colour and outlined, brighter for a higher score, the others grey
and dim."""

import numpy as np
import pytest

from pocketvlm import PocketVLMError
from pocketvlm.layouts import TokenGrid
from pocketvlm.layouts.grids import grid_of
from pocketvlm.vision.overlay import draw_kept


def test_kept_patches_stand_out():
    picture = np.full((32, 32, 3), (200, 40, 40), np.uint8)
    drawing = np.asarray(
        draw_kept(picture, np.array([0, 5]), np.array([0.9, 0.1], np.float32), TokenGrid(4, 4))
    )
    assert drawing.shape == (512, 512, 3)
    best, weaker, dropped = drawing[64, 64], drawing[192, 192], drawing[320, 320]
    assert best.tolist() == [200, 40, 40]
    assert dropped[0] == dropped[1] == dropped[2] < 40
    assert dropped[0] < weaker[0] < best[0]
    assert drawing[64, 127].tolist() == [255, 196, 0]  # the outline, inside the kept patch
    assert drawing[64, 0].tolist() == [200, 40, 40]  # none along the frame
    assert drawing[64, 128].tolist() == dropped.tolist()


def test_all_patches_kept_is_the_picture_without_outlines():
    picture = np.full((40, 20, 3), 90, np.uint8)
    scores = np.zeros(8, np.float32)
    drawing = np.asarray(draw_kept(picture, np.arange(8), scores, TokenGrid(4, 2)))
    assert drawing.shape == (520, 260, 3)
    assert not (drawing == [255, 196, 0]).all(axis=2).any()


@pytest.mark.parametrize(
    ("size", "patches", "grid"), [((336, 336), 576, (24, 24)), ((64, 32), 8, (4, 2))]
)
def test_the_grid_follows_the_proportions(size, patches, grid):
    assert grid_of(*size, patches) == TokenGrid(*grid)


def test_what_is_no_grid_is_refused():
    picture, kept = np.zeros((336, 336, 3), np.uint8), np.array([0])
    with pytest.raises(PocketVLMError, match="145 patches are not a grid over 336x336"):
        draw_kept(picture, kept, np.ones(1, np.float32), grid_of(336, 336, 145))
