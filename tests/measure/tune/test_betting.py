"""The sequential test: its errors stay below what is stated, however often one looks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm_measure.tune.betting import PairedDifferences

LIMIT = -0.02
LOOKS = (20, 27, 36, 49, 66, 89, 120, 162, 219, 296, 400)


def streams(rng, won, lost, count):
    """How often each of count streams won, lost and drew between two looks: (count, looks, 3)."""
    sizes = np.diff(LOOKS, prepend=0)
    chances = [won, lost, 1 - won - lost]
    return np.stack([rng.multinomial(size, chances, size=count) for size in sizes], axis=1)


def decision(stream, error):
    """The first decision of one who looks again and again, and stops at once."""
    seen = PairedDifferences()
    for won, lost, drawn in stream:
        for total, repeats in ((1.0, won), (-1.0, lost), (0.0, drawn)):
            seen.add(total, 1, int(repeats))
        if seen.is_above(LIMIT, error):
            return "above"
        if seen.is_below(LIMIT, error):
            return "below"
    return None


@pytest.mark.parametrize(
    ("won", "lost", "wrong"),
    [
        (0.10, 0.12, "below"),  # exactly at the limit, where a false decision is likeliest
        (0.30, 0.3199, "below"),
        (0.10, 0.1201, "above"),
        (0.0, 0.0201, "above"),
        (0.30, 0.3201, "above"),
    ],
)
def test_false_decisions_are_as_rare_as_stated_although_one_stops_when_it_suits(won, lost, wrong):
    error, count = 0.1, 400
    made = [
        decision(stream, error) for stream in streams(np.random.default_rng(0), won, lost, count)
    ]
    # Three standard errors of a rate of `error` over so many streams.
    assert made.count(wrong) / count <= error + 3 * math.sqrt(error * (1 - error) / count)


def test_plain_differences_are_decided_early():
    rng = np.random.default_rng(1)
    worse = [decision(stream, 0.005) for stream in streams(rng, 0.05, 0.25, 100)]
    assert worse.count("below") >= 99
    same = PairedDifferences()
    same.add(0.0, 1, 600)
    assert same.is_above(LIMIT, 0.005)


def test_intervals_cover_the_mean_at_all_looks_together():
    error, mean, missed = 0.1, -0.1, 0
    for stream in streams(np.random.default_rng(2), 0.1, 0.2, 80):
        seen, outside = PairedDifferences(), False
        for won, lost, drawn in stream[::4]:
            for total, repeats in ((1.0, won), (-1.0, lost), (0.0, drawn)):
                seen.add(total, 1, int(repeats))
            low, high = seen.bounds(error)
            outside |= not low <= mean <= high
        missed += outside
    assert missed / 80 <= 2 * error


def capital(observed, mean, most):
    """From the formula, share by share and picture by picture, in float64."""
    shares = [0.95 * 0.72**power for power in range(16)]
    return sum(
        math.prod(
            1 + share * (total - mean * count) / (most * (1 + mean)) for total, count in observed
        )
        for share in shares
    ) / len(shares)


pictures = st.lists(
    st.integers(1, 3).flatmap(
        lambda count: st.tuples(st.integers(-count, count).map(float), st.just(count))
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(pictures, st.floats(-0.9, 0.9), st.sampled_from([0.3, 0.05, 0.001]))
def test_decisions_and_bounds_are_those_of_the_formula(observed, mean, error):
    seen = PairedDifferences(3)
    for total, count in observed:
        seen.add(total, count)
    above = capital(observed, mean, 3)
    below = capital([(-total, count) for total, count in observed], -mean, 3)
    if abs(above * error - 1) > 1e-9:
        assert seen.is_above(mean, error) == (above >= 1 / error)
    if abs(below * error - 1) > 1e-9:
        assert seen.is_below(mean, error) == (below >= 1 / error)
    low, high = seen.bounds(error)
    assert -1 <= low <= seen.mean + 1e-9
    assert seen.mean - 1e-9 <= high <= 1
    if low > -1 + 1e-6:
        assert capital(observed, low - 1e-7, 3) >= 1 / error * (1 - 1e-4)
        assert capital(observed, low + 1e-7, 3) <= 1 / error * (1 + 1e-4)


@settings(max_examples=20, deadline=None)
@given(pictures, st.randoms(use_true_random=False))
def test_the_order_of_pictures_does_not_matter(observed, random):
    one, other = PairedDifferences(3), PairedDifferences(3)
    for total, count in observed:
        one.add(total, count)
    random.shuffle(observed)
    for total, count in observed:
        other.add(total, count)
    assert one.bounds(0.05) == pytest.approx(other.bounds(0.05), abs=1e-9)
    assert one.deviation == pytest.approx(other.deviation)


def test_questions_about_one_picture_are_one_observation():
    """Five questions that always fail together show less than five that fail on their own."""
    together, alone = PairedDifferences(5), PairedDifferences()
    together.add(-5.0, 5, 10)
    together.add(0.0, 5, 40)
    alone.add(-1.0, 1, 50)
    alone.add(0.0, 1, 200)
    assert together.mean == alone.mean == -0.2
    assert alone.is_below(LIMIT, 0.01)
    assert not together.is_below(LIMIT, 0.01)
    assert together.deviation > alone.deviation


def test_so_many_questions_as_are_said_decide():
    seen = PairedDifferences()
    for total, repeats in ((1.0, 4), (-1.0, 8), (0.0, 88)):
        seen.add(total, 1, repeats)
    needed = seen.needed(0.0, 0.01)
    assert needed is not None
    assert needed > seen.questions
    times = math.ceil(needed / 100)
    more = PairedDifferences()
    for total, repeats in ((1.0, 4), (-1.0, 8), (0.0, 88)):
        more.add(total, 1, repeats * times)
    assert more.is_below(0.0, 0.01)
    assert PairedDifferences().needed(0.0, 0.01) is None
    even = PairedDifferences()
    even.add(1.0, 1, 50)
    even.add(-1.0, 1, 50)
    assert even.needed(0.0, 0.01) is None


def test_nothing_is_shown_by_nothing():
    seen = PairedDifferences()
    assert not seen.is_above(LIMIT, 0.05)
    assert not seen.is_below(LIMIT, 0.05)
    assert seen.bounds(0.05) == (pytest.approx(-1), pytest.approx(1))
    assert seen.mean == 0
    assert seen.deviation > 1


@pytest.mark.parametrize(("total", "count"), [(2.0, 1), (0.0, 0), (0.0, 3), (-3.0, 2)])
def test_a_difference_that_cannot_be_is_a_bug(total, count):
    with pytest.raises(ValueError, match="questions"):
        PairedDifferences(2).add(total, count)
