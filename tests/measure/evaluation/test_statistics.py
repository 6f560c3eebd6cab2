"""Intervals hold as often as they say, a planted difference is found, and one that is not there is
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


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(here, there):
    expected = binomtest(here, here + there).pvalue if here + there else 1.0
    assert mcnemar(here, there) == pytest.approx(expected)


def test_mcnemar_of_many():
    assert mcnemar(5_400, 5_000) == pytest.approx(binomtest(5_400, 10_400).pvalue)
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


def test_intervals_hold_as_often_as_they_say(few_draws):
    rng = np.random.default_rng(0)
    held = []
    for number in range(500):  # each with draws of its own: shared ones err alike
        right, pictures = a_set(rng)
        (found,) = estimate(scores(right), pictures, EXACT.combine, seed=number + 1)
        held.append(found.low <= 0.9 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_intervals_over_questions_would_not_hold_where_they_share_pictures(few_draws):
    """Twenty questions a picture, right or wrong together: pictures are what is drawn."""
    rng = np.random.default_rng(0)
    held = {"pictures": [], "questions": []}
    for _ in range(100):
        right = (rng.random(100) < 0.8).repeat(20)
        for name, of in (("pictures", np.arange(100).repeat(20)), ("questions", np.arange(2_000))):
            (found,) = estimate(scores(right), of, EXACT.combine)
            held[name].append(found.low <= 0.8 <= found.high)
    assert np.mean(held["pictures"]) > 0.88
    assert np.mean(held["questions"]) < 0.6


@pytest.mark.parametrize(("lost", "won", "true"), [(0.03, 0.01, -0.02), (0.02, 0.02, 0.0)])
def test_a_planted_difference_of_two_points_is_found_and_none_where_there_is_none(
    few_draws, lost, won, true
):
    rng = np.random.default_rng(1)
    held, seen = [], []
    for _ in range(500):
        right, pictures = a_set(rng, pictures=750)
        found = difference(
            scores(flipped(rng, right, lost, won)),
            scores(right),
            pictures,
            EXACT.combine,
            EXACT.is_right,
        )
        held.append(found.estimate.low <= true <= found.estimate.high)
        seen.append(found.p < 0.05)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)
    assert (np.mean(seen) > 0.9) if true else (np.mean(seen) < 0.07)


def test_shuffled_answers_score_at_chance():
    rng = np.random.default_rng(2)
    wanted = rng.choice(["red", "blue", "green", "white"], 4_000, p=[0.4, 0.3, 0.2, 0.1])
    parts = np.array(
        [
            EXACT.parts(said, [want])
            for said, want in zip(rng.permutation(wanted), wanted, strict=True)
        ]
    )
    (found,) = estimate(parts, np.arange(len(wanted)), EXACT.combine)
    assert found.low < 0.4**2 + 0.3**2 + 0.2**2 + 0.1**2 < found.high
    assert found.high - found.low < 0.04


def test_where_all_is_right_the_interval_is_the_exact_one():
    (found,) = estimate(scores(np.ones(40, dtype=bool)), np.arange(40), EXACT.combine)
    exact = binomtest(40, 40).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == pytest.approx((1, exact.low, 1))
    (found,) = estimate(scores(np.zeros(40, dtype=bool)), np.arange(20).repeat(2), EXACT.combine)
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(binomtest(0, 20).proportion_ci(0.95, "exact").high)


def test_the_interval_of_f1_is_that_of_resampled_f1():
    metric, rng = METRICS["yesno-f1"], np.random.default_rng(3)
    wanted, said = rng.random(300) < 0.5, rng.random(300) < 0.7
    words = {True: "yes", False: "no"}
    parts = np.array(
        [metric.parts(words[bool(s)], [words[bool(w)]]) for s, w in zip(said, wanted, strict=True)]
    )
    found = estimate(parts, np.arange(300), metric.combine)[0]
    draws = []
    for _ in range(1_000):
        i = rng.integers(300, size=300)
        hit = (said[i] & wanted[i]).sum()
        precision, recall = hit / said[i].sum(), hit / wanted[i].sum()
        draws.append(2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(
        [found.low, found.high], np.percentile(draws, [2.5, 97.5]), atol=0.01
    )


def test_without_a_single_yes_f1_says_nothing():
    metric = METRICS["yesno-f1"]
    parts = np.array([metric.parts("no", ["no"])] * 5)
    found = dict(zip(metric.figures, estimate(parts, np.arange(5), metric.combine), strict=True))
    assert np.isnan([found["f1"].value, found["f1"].low, found["f1"].high]).all()
    assert found["accuracy"].value == 1


def test_the_same_answers_differ_by_nothing():
    right = scores(np.arange(10) % 2 == 0)
    found = difference(right, right, np.arange(10), EXACT.combine, EXACT.is_right)
    assert (found.estimate.value, found.estimate.low, found.estimate.high, found.p) == (0, 0, 0, 1)
