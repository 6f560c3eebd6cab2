"""Intervals hold as often as they say, a planted difference is figure, and one that is not there is
not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pocketvlm_measure.evaluation import statistics
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.statistics import difference, estimate, mcnemar

EXACT = METRICS["exact"]


def coins(here, there):
    """Two-sided p of a fair coin, in whole numbers: twice the ways in which no more than the fewer
    of all fall to one side."""
    count, ways, below = here + there, 1, 0
    for i in range(min(here, there) + 1):
        below += ways
        ways = ways * (count - i) // (i + 1)
    return min(1.0, 2 * below / 2**count)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_fair_coin(here, there):
    assert mcnemar(here, there) == pytest.approx(coins(here, there), rel=1e-12)


def test_mcnemar_of_many():
    assert mcnemar(5_400, 5_000) == pytest.approx(coins(5_400, 5_000), rel=1e-12)
    assert mcnemar(9_000, 100) == pytest.approx(0, abs=1e-100)


def scores(right):
    return np.stack([right, np.ones(len(right))], axis=1).astype(float)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 200)


def a_set(rng, pictures=400):
    """Right or wrong of two questions about each of ``pictures``; some pictures are harder than
    others."""
    chance = rng.beta(9, 1, pictures).repeat(2)  # 0.9 on average
    return rng.random(2 * pictures) < chance, np.arange(pictures).repeat(2)


def flipped(rng, right, lost, won):
    """The answers of another model: of all, a share ``lost`` goes wrong and a share ``won`` comes
    right."""
    change = rng.random(len(right))
    return np.where(right, change >= lost / 0.9, change < won / 0.1)


def test_intervals_hold_as_often_as_they_say(few_draws, monkeypatch):
    rng = np.random.default_rng(0)
    held = []
    for number in range(500):  # each with draws of its own: shared ones err alike
        right, pictures = a_set(rng)
        monkeypatch.setattr(statistics, "SEED", number + 1)
        (figure,) = estimate(scores(right), pictures, EXACT.combine)
        held.append(figure.low <= 0.9 <= figure.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_intervals_over_questions_would_not_hold_where_they_share_pictures(few_draws):
    """Twenty questions a picture, right or wrong together: pictures are what is drawn."""
    rng = np.random.default_rng(0)
    held = {"pictures": [], "questions": []}
    for _ in range(100):
        right = (rng.random(100) < 0.8).repeat(20)
        for name, of in (("pictures", np.arange(100).repeat(20)), ("questions", np.arange(2_000))):
            (figure,) = estimate(scores(right), of, EXACT.combine)
            held[name].append(figure.low <= 0.8 <= figure.high)
    assert np.mean(held["pictures"]) > 0.88
    assert np.mean(held["questions"]) < 0.6


@pytest.mark.parametrize(("lost", "won", "true"), [(0.03, 0.01, -0.02), (0.02, 0.02, 0.0)])
def test_a_planted_difference_of_two_points_is_found_and_none_where_there_is_none(
    few_draws, lost, won, true
):
    rng = np.random.default_rng(1)
    held, significant = [], []
    for _ in range(500):
        right, pictures = a_set(rng, pictures=750)
        figure = difference(
            scores(flipped(rng, right, lost, won)),
            scores(right),
            pictures,
            EXACT.combine,
            EXACT.is_right,
        )
        held.append(figure.estimate.low <= true <= figure.estimate.high)
        significant.append(figure.p < 0.05)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)
    assert (np.mean(significant) > 0.9) if true else (np.mean(significant) < 0.07)


def test_shuffled_answers_score_at_chance():
    rng = np.random.default_rng(2)
    expected = rng.choice(["red", "blue", "green", "white"], 4_000, p=[0.4, 0.3, 0.2, 0.1])
    parts = np.array(
        [
            EXACT.parts(answer, [right])
            for answer, right in zip(rng.permutation(expected), expected, strict=True)
        ]
    )
    (figure,) = estimate(parts, np.arange(len(expected)), EXACT.combine)
    assert figure.low < 0.4**2 + 0.3**2 + 0.2**2 + 0.1**2 < figure.high
    assert figure.high - figure.low < 0.04


def test_where_all_is_right_the_interval_is_the_exact_one():
    (figure,) = estimate(scores(np.ones(40, dtype=bool)), np.arange(40), EXACT.combine)
    exact = binomtest(40, 40).proportion_ci(0.95, "exact")
    assert (figure.value, figure.low, figure.high) == pytest.approx((1, exact.low, 1))
    (figure,) = estimate(scores(np.zeros(40, dtype=bool)), np.arange(20).repeat(2), EXACT.combine)
    assert (figure.value, figure.low) == (0, 0)
    assert figure.high == pytest.approx(binomtest(0, 20).proportion_ci(0.95, "exact").high)


def test_the_interval_of_f1_is_that_of_resampled_f1():
    metric, rng = METRICS["yesno-f1"], np.random.default_rng(3)
    expected, answers = rng.random(300) < 0.5, rng.random(300) < 0.7
    words = {True: "yes", False: "no"}
    parts = np.array(
        [
            metric.parts(words[bool(s)], [words[bool(w)]])
            for s, w in zip(answers, expected, strict=True)
        ]
    )
    figure = estimate(parts, np.arange(300), metric.combine)[0]
    draws = []
    for _ in range(1_000):
        i = rng.integers(300, size=300)
        hit = (answers[i] & expected[i]).sum()
        precision, recall = hit / answers[i].sum(), hit / expected[i].sum()
        draws.append(2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(
        [figure.low, figure.high], np.percentile(draws, [2.5, 97.5]), atol=0.01
    )


def test_without_a_single_yes_f1_says_nothing():
    metric = METRICS["yesno-f1"]
    parts = np.array([metric.parts("no", ["no"])] * 5)
    figure = dict(zip(metric.figures, estimate(parts, np.arange(5), metric.combine), strict=True))
    assert np.isnan([figure["f1"].value, figure["f1"].low, figure["f1"].high]).all()
    assert figure["accuracy"].value == 1


def test_the_same_answers_differ_by_nothing():
    right = scores(np.arange(10) % 2 == 0)
    figure = difference(right, right, np.arange(10), EXACT.combine, EXACT.is_right)
    assert (figure.estimate.value, figure.estimate.low, figure.estimate.high, figure.p) == (
        0,
        0,
        0,
        1,
    )
