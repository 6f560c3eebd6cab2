"""Sizes of pictures in the frontier: what a smaller one leaves, and the same part of another
model's."""

from dataclasses import replace

import pytest

from frontier import grid, points
from frontier.accuracy import Accuracy
from frontier.settings import Dimensions, Setting
from pocketvlm_export.pruning import KEEPS_ALL
from pocketvlm_measure.evaluation.statistics import Estimate

DEMO, CLIP_L = Dimensions(144, 5, 4, 8), Dimensions(576, 23, 24, 14)
# Edge of the demo's pictures, its tokens, and the same of CLIP-L/14-336.
SIZES = [(80, 100, 280, 400), (72, 81, 252, 324), (64, 64, 224, 256), (48, 36, 168, 144)]


def result(setting, budget):
    return Accuracy(setting, budget, Estimate(0.9, 0.8, 0.95), None)


def test_the_demo_has_the_dimensions_that_are_compared_here():
    assert Dimensions.of("demo") == DEMO
    assert (DEMO.size, CLIP_L.size) == (96, 336)
    assert [size for size, *_ in SIZES] == list(grid.SIZES)


@pytest.mark.parametrize(("edge", "tokens", "there", "others"), SIZES)
def test_a_size_is_the_same_part_of_another_models(edge, tokens, there, others):
    setting = Setting("scope", image_size=edge)
    assert DEMO.tokens_at(edge) == tokens
    assert setting.scaled(DEMO, CLIP_L).image_size == there
    assert CLIP_L.tokens_at(there) == others
    assert setting.scaled(DEMO, DEMO) == setting
    whole = points.parts(
        result(Setting(KEEPS_ALL, image_size=edge), tokens), DEMO, CLIP_L, grid.unpruned()
    )
    assert whole == points.Parts(
        Setting(KEEPS_ALL, image_size=there), others, grid.unpruned(), others
    )


def test_the_graph_of_a_quarter_of_what_is_left_serves_all_below():
    small = Setting("scope", image_size=72)
    of = points.parts(result(small, 14), DEMO, CLIP_L, grid.unpruned())
    assert of == points.Parts(replace(small, image_size=252), 80, grid.unpruned(), 56)


def test_only_budgets_that_drop_something():
    assert Setting("scope", image_size=72).allowed((100, 81, 36), DEMO) == [36]
    assert Setting("scope").allowed((144, 36), DEMO) == [144, 36]


def test_names_and_titles():
    small = Setting("scope", image_size=72)
    assert small.name == "scope+size-72"
    assert small.stages == "72 pixels"
    assert small.whole == Setting("scope")
    assert small.export_options((20,)).image_size == (72, 72)
    assert Setting("scope").export_options((20,)).image_size is None
