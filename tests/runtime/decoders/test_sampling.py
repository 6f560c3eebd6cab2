"""Sampling against the formulas in numpy and transformers' own logits processors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pocketvlm import PocketVLMError
from pocketvlm.decoders.sampling import Sampler

logits_arrays = hnp.arrays(np.float32, st.integers(2, 50), elements=st.floats(-20, 20, width=32))


@given(logits_arrays)
def test_greedy_is_argmax_with_ties_to_the_lower_id(logits):
    assert Sampler().pick(logits) == int(np.flatnonzero(logits == logits.max())[0])


@given(logits_arrays, st.floats(0.1, 5))
def test_temperature_is_softmax_of_scaled_logits(logits, temperature):
    scaled = logits.astype(np.float64) / temperature
    expected = np.exp(scaled - scaled.max())
    np.testing.assert_allclose(
        Sampler(temperature).probabilities(logits), expected / expected.sum(), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_top_p_keeps_the_tokens_that_transformers_keeps(top_p, temperature):
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(3).normal(scale=3, size=200).astype(np.float32)
    warped = TemperatureLogitsWarper(temperature)(None, torch.tensor(logits)[None])
    warped = TopPLogitsWarper(top_p)(None, warped)
    expected = torch.softmax(warped[0].double(), dim=-1).numpy()
    actual = Sampler(temperature, top_p).probabilities(logits)
    assert np.array_equal(actual > 0, expected > 0)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_tiny_temperature_does_not_overflow():
    assert Sampler(1e-30).pick(np.array([1.0, 900.0, 2.0], np.float32)) == 1


def test_the_same_seed_picks_the_same_tokens_and_draws_follow_the_distribution():
    logits = np.log(np.array([0.1, 0.2, 0.7], np.float32))
    first, again = (Sampler(1.0, seed=7) for _ in range(2))
    draws = [first.pick(logits) for _ in range(3000)]
    assert draws == [again.pick(logits) for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(draws) / 3000, [0.1, 0.2, 0.7], atol=0.03)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("values", [[0, np.nan, 1], [np.inf, 0, 1], [-np.inf] * 3])
def test_logits_that_are_not_finite_are_refused(temperature, values):
    with pytest.raises(PocketVLMError, match="not finite"):
        Sampler(temperature).pick(np.array(values, np.float32))


def test_a_token_may_be_ruled_out():
    assert Sampler(1.0, seed=0).pick(np.array([-np.inf, 0, -np.inf], np.float32)) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": -1}, {"temperature": float("nan")}, {"temperature": float("inf")}]
    + [{"top_p": value} for value in (0, -0.1, 1.1, float("nan"))]
    + [{"seed": -1}],
)
def test_settings_out_of_range_are_refused(arguments):
    with pytest.raises(PocketVLMError, match=next(iter(arguments))):
        Sampler(**arguments)
