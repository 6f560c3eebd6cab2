"""Replays of the demo's recorded answers: `pocketvlm tune` chooses within a point of the best."""

from statistics import fmean

import numpy as np
import pytest

from pocketvlm_measure.tune.tuning import TuneLimits
from tune_replays.grid import DATA, read_grid
from tune_replays.replays import replayed, useless

SEEDS = 20
EVERY = 12  # of the recorded settings, which suffice here; `python -m tune_replays run` takes all


@pytest.fixture(scope="module")
def settings():
    grid = read_grid()
    return [grid[0], *grid[1::EVERY], *useless(grid)]


@pytest.fixture(scope="module")
def outcomes(settings):
    """Replays with shuffled questions, of which 800 of 1,000 are taken, and jittered times."""
    limits = TuneLimits(max_loss=2, max_ttft=800, time=1e9)
    return [replayed(settings, seed, limits, 800) for seed in range(SEEDS)]


def test_nine_of_ten_choose_within_a_point_of_the_best(outcomes):
    assert sum(one.good for one in outcomes) >= 0.9 * SEEDS


def test_a_useless_option_is_never_chosen(outcomes):
    names = {one.chosen.setting for one in outcomes if one.chosen is not None}
    assert names
    assert not any("planted" in name for name in names)


def test_limits_are_never_broken(outcomes):
    assert all(one.within for one in outcomes)
    assert any(e.verdict == "over a limit" for one in outcomes for e in one.tuning.evidence)


def test_early_stopping_saves_answers_and_decides_rightly(outcomes):
    assert fmean(one.saved for one in outcomes) > 0.3
    assert sum(one.false for one in outcomes) <= 0.1 * SEEDS


def test_the_grid_is_small_and_starts_with_the_unpruned_model():
    grid = read_grid()
    assert DATA.stat().st_size < 200_000
    assert grid[0].setting == "none"
    assert grid[0].cost == 1 == max(one.cost for one in grid)
    assert {len(one.right) for one in grid} == {1_000}
    assert all(0 < one.cost <= 1 and 0.3 < one.accuracy < 1 for one in grid)


def test_answers_survive_being_written(tmp_path):
    one = read_grid()[3]
    again = type(one).of(one.to_json(), len(one.right))
    assert np.array_equal(one.right, again.right)
    assert (one.setting, one.budget, one.cost) == (again.setting, again.budget, again.cost)
