"""Picking tokens against transformers' own logits processors, in its own order, and numpy from the
formulas."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import chisquare
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.logits_process import MinPLogitsWarper

from pocketvlm.decoders.sampling import Sampler, Sampling, make_processors, make_warpers
from pocketvlm.errors import EngineError, RequestError

VOCABULARY = 24
EDGES = (TopPLogitsWarper, MinPLogitsWarper)  # they compare probabilities with a limit
WARPERS = (TemperatureLogitsWarper, TopKLogitsWarper, *EDGES)
# Both compute in float64 here, and differ by the order of sums of VOCABULARY terms that are at most
# 1: by 24 * 2^-53 = 3e-15. This leaves room for the rounding of exp.
ROUNDING = 1e-13
# Further than rounding from the limit of top_p or min_p, so that both must keep the same tokens.
MARGIN = 1e-9

values = st.floats(-20, 20, width=32)
logits_arrays = hnp.arrays(np.float32, VOCABULARY, elements=values)
token_ids = st.integers(0, VOCABULARY - 1)
prompts = st.lists(token_ids, max_size=12)
greedy = st.builds(
    Sampling,
    min_new_tokens=st.integers(0, 4),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.1, 1.5]),
    no_repeat_ngram_size=st.integers(0, 4),
    suppress_tokens=st.lists(token_ids | st.just(999), max_size=3).map(tuple),
)
samplings = st.builds(
    replace,
    greedy,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.3, 5.0]),
    top_k=st.none() | st.integers(1, 30),
    top_p=st.just(1.0) | st.floats(0.05, 1),
    min_p=st.just(0.0) | st.floats(0, 1),
    seed=st.integers(0, 2**64),
)
MODEL = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
)


def theirs(sampling, prompt=(), eos=()):
    """The processors of ``generate``, as transformers itself chooses and orders them."""
    values = {k: v for k, v in asdict(sampling).items() if k not in ("seed", "stop")}
    values |= {"top_k": sampling.top_k or 0, "suppress_tokens": list(sampling.suppress_tokens)}
    if not sampling.temperature:
        del values["temperature"]
    config = GenerationConfig(
        **values, do_sample=sampling.temperature > 0, eos_token_id=list(eos) or None, pad_token_id=0
    )
    MODEL._prepare_special_tokens(config, device="cpu")
    return MODEL._get_logits_processor(config, input_ids_seq_length=len(prompt), device="cpu")


def scored(processors, ids, logits, without=()):
    """Scores, computed in float32 up to the warpers, as ``generate`` does, and in float64 there."""
    before = [each for each in processors if not isinstance(each, WARPERS)]
    after = [each for each in processors if isinstance(each, WARPERS)]
    assert before + after == list(processors)
    after = [each for each in after if not isinstance(each, without)]
    ids = torch.tensor([ids], dtype=torch.int64)
    scores = LogitsProcessorList(before)(ids, torch.from_numpy(logits)[None])
    return LogitsProcessorList(after)(ids, scores.double())[0]


def is_on_an_edge(sampling, processors, ids, logits):
    """Whether rounding, or the order of equal tokens, decides which tokens are kept."""
    scores = scored(processors, ids, logits, without=EDGES)
    rising = torch.sort(scores[torch.isfinite(scores)]).values
    probabilities = torch.softmax(rising, dim=-1)
    cumulative = probabilities.cumsum(-1)
    ratios = (probabilities / probabilities[-1])[:-1]
    return bool(
        (sampling.top_p < 1 and (cumulative - (1 - sampling.top_p)).abs().min() < MARGIN)
        or (len(ratios) and (ratios - sampling.min_p).abs().min() < MARGIN)
        or (rising.diff() == 0).any()
    )


@settings(max_examples=300, deadline=None)
@given(samplings, prompts, st.sets(token_ids, max_size=2), st.lists(logits_arrays, max_size=6))
def test_every_distribution_is_that_of_transformers(sampling, prompt, eos, steps):
    sampler, processors = Sampler(sampling, prompt, eos), theirs(sampling, prompt, eos)
    ids = list(prompt)
    for logits in steps:
        assume(not is_on_an_edge(sampling, processors, ids, logits))
        expected = torch.softmax(scored(processors, ids, logits), dim=-1).numpy()
        actual = sampler.probabilities(logits)
        assert np.array_equal(actual > 0, expected > 0)
        np.testing.assert_allclose(actual, expected, rtol=ROUNDING, atol=ROUNDING)
        ids.append(sampler.pick(logits))
        assert actual[ids[-1]] > 0


@settings(max_examples=300, deadline=None)
@given(greedy, prompts, st.sets(token_ids, max_size=2), st.lists(logits_arrays, max_size=8))
def test_greedy_tokens_are_those_of_transformers_to_the_last_bit(sampling, prompt, eos, steps):
    sampler, processors = Sampler(sampling, prompt, eos), theirs(sampling, prompt, eos)
    ids = list(prompt)
    for logits in steps:
        scores = processors(torch.tensor([ids], dtype=torch.int64), torch.from_numpy(logits)[None])
        assert scores.dtype == torch.float32
        assume(scores.max() > -np.inf)
        np.testing.assert_array_equal(sampler.scores(logits), scores[0].numpy())
        ids.append(sampler.pick(logits))
        assert ids[-1] == int(np.flatnonzero(scores[0].numpy() == float(scores.max()))[0])


def test_the_steps_come_in_the_order_of_transformers():
    every = Sampling(
        min_new_tokens=2,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        suppress_tokens=(3,),
    )
    ours = [each.func.__name__ for each in (*make_processors(every, 2, [5]), *make_warpers(every))]
    pairs = {
        "RepetitionPenaltyLogitsProcessor": "penalise_repetition",
        "NoRepeatNGramLogitsProcessor": "ban_repeated_ngrams",
        "MinNewTokensLengthLogitsProcessor": "delay_end",
        "SuppressTokensLogitsProcessor": "suppress",
        "TemperatureLogitsWarper": "scale",
        "TopKLogitsWarper": "keep_top_k",
        "TopPLogitsWarper": "keep_top_p",
        "MinPLogitsWarper": "keep_min_p",
    }
    assert ours == [pairs[type(each).__name__] for each in theirs(every, [1, 2], [5])]
    assert not [*make_processors(Sampling(), 2, [5]), *make_warpers(Sampling())]


@pytest.mark.parametrize(
    "changes", [{}, {"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.05}, {"repetition_penalty": 1.1}]
)
def test_a_real_vocabulary_in_float32_as_transformers_computes_it(changes):
    """Its own float32 against our float64: softmax there is good to about 1e-6 of a probability."""
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=4, size=50_000).astype(np.float32)
    ids = rng.integers(0, 50_000, 300).tolist()
    sampling = Sampling(temperature=0.8, **changes)
    processors = theirs(sampling, ids)
    scores = processors(torch.tensor([ids]), torch.from_numpy(logits)[None])[0]
    expected = torch.softmax(scores, dim=-1).numpy()
    actual = Sampler(sampling, ids).probabilities(logits)
    # The sum of the smallest tokens rounds, so one at the edge of the nucleus may go either way.
    assert abs(int((actual > 0).sum()) - int((expected > 0).sum())) <= 1
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("top_k", [None, 3000])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 1, 4, 12])
@pytest.mark.parametrize("decimals", [1, 6])
def test_the_nucleus_of_a_real_vocabulary_is_that_of_transformers(top_k, top_p, spread, decimals):
    """However many tokens it takes, and with many equal ones."""
    rng = np.random.default_rng(4)
    logits = rng.normal(scale=spread, size=20_000).astype(np.float32).round(decimals)
    sampling = Sampling(temperature=1.0, top_p=top_p, top_k=top_k)
    expected = torch.softmax(scored(theirs(sampling), [], logits), dim=-1).numpy()
    actual = Sampler(sampling).probabilities(logits)
    # 20,000 terms are summed in another order: 20,000 * 2^-53 = 2e-12 at most.
    np.testing.assert_allclose(np.sort(actual), np.sort(expected), rtol=1e-11, atol=1e-14)


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, VOCABULARY, elements=st.sampled_from([-1.0, 0.0, 2.0])),
    st.floats(0.05, 0.99),
)
def test_of_equal_tokens_on_the_edge_of_the_nucleus_as_many_stay_and_the_lower_ids(logits, top_p):
    sampling = Sampling(temperature=1.0, top_p=top_p)
    processors = theirs(sampling)
    cumulative = torch.softmax(torch.from_numpy(np.sort(logits)).double(), -1).cumsum(-1)
    assume((cumulative - (1 - top_p)).abs().min() > MARGIN)
    expected = torch.softmax(scored(processors, [], logits), dim=-1).numpy()
    actual = Sampler(sampling).probabilities(logits)
    np.testing.assert_allclose(np.sort(actual), np.sort(expected), rtol=ROUNDING, atol=ROUNDING)
    for value in np.unique(logits):
        kept = actual[logits == value] > 0
        assert kept[: kept.sum()].all()


@given(logits_arrays)
def test_greedy_is_argmax_with_ties_to_the_lower_id(logits):
    best = int(np.flatnonzero(logits == logits.max())[0])
    sampler = Sampler(Sampling(top_p=0.1, top_k=2, seed=3))
    assert sampler.pick(logits) == best
    assert sampler.probabilities(logits).tolist() == np.eye(VOCABULARY)[best].tolist()


@given(logits_arrays, st.floats(0.1, 5))
def test_temperature_is_softmax_of_scaled_logits(logits, temperature):
    scaled = logits.astype(np.float64) / temperature
    expected = np.exp(scaled - scaled.max())
    np.testing.assert_allclose(
        Sampler(Sampling(temperature=temperature)).probabilities(logits),
        expected / expected.sum(),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-30])
def test_a_tiny_temperature_does_not_overflow(temperature):
    sampler = Sampler(Sampling(temperature=temperature, top_p=0.9, top_k=2, min_p=0.1))
    with np.errstate(all="raise", under="ignore"):
        assert sampler.pick(np.array([1.0, 900.0, 2.0, -np.inf], np.float32)) == 1


SMALL = np.array([0.5, 2.0, -1.0, 1.0, 0.0, 1.5], np.float32)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.7, top_p=0.8, seed=2),
        Sampling(temperature=1.5, top_k=3, min_p=0.1, seed=3),
    ],
)
def test_draws_follow_the_distribution_and_repeat_with_the_seed(sampling):
    sampler, again = Sampler(sampling), Sampler(sampling)
    draws = [sampler.pick(SMALL) for _ in range(4000)]
    assert draws == [again.pick(SMALL) for _ in range(4000)]
    expected = torch.softmax(scored(theirs(sampling), [], SMALL), dim=-1).numpy()
    counts = np.bincount(draws, minlength=len(SMALL))
    assert not counts[expected == 0].any()
    possible = expected > 0
    result = chisquare(counts[possible], 4000 * expected[possible] / expected[possible].sum())
    assert result.pvalue > 1e-3


def test_other_seeds_and_none_draw_otherwise():
    flat = np.zeros(1000, np.float32)

    def draw(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.pick(flat) for _ in range(5)]

    assert draw(2**70) == draw(2**70)
    assert draw(3) != draw(4)
    assert draw(None) != draw(None)


def test_the_logits_that_come_in_are_left_as_they_are():
    sampler = Sampler(Sampling(repetition_penalty=2.0, suppress_tokens=(0,), top_k=1), [1, 2])
    logits = np.arange(4, dtype=np.float32)
    logits.flags.writeable = False
    assert sampler.pick(logits) == 3
    prompt = np.array([1, 2])
    Sampler(Sampling(), prompt).pick(logits)
    assert prompt.tolist() == [1, 2]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("values", [[0, np.nan, 1], [np.inf, 0, 1], [-np.inf] * 3])
def test_logits_that_are_not_finite_are_refused(temperature, values):
    with pytest.raises(EngineError, match="not finite"):
        Sampler(Sampling(temperature=temperature)).pick(np.array(values, np.float32))


def test_a_token_may_be_ruled_out():
    sampler = Sampler(Sampling(temperature=1.0, seed=0))
    assert sampler.pick(np.array([-np.inf, 0, -np.inf], np.float32)) == 1


@pytest.mark.parametrize("temperature", [0, 1])
def test_settings_that_leave_no_token_are_refused(temperature):
    sampling = Sampling(temperature=temperature, no_repeat_ngram_size=1, suppress_tokens=(2,))
    with pytest.raises(RequestError, match="rule out every token: relax"):
        Sampler(sampling, [0, 1]).pick(np.zeros(3, np.float32))


def test_a_penalty_that_overflows_is_refused():
    sampler = Sampler(Sampling(repetition_penalty=1e-300), [0])
    with pytest.raises(RequestError, match="overflow") as error:
        sampler.pick(np.ones(3, np.float32))
    assert error.value.setting == "repetition_penalty"


NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")
REFUSED = [
    *(("max_new_tokens", value) for value in (0, -1, 1.5, "8", None, True)),
    *(("min_new_tokens", value) for value in (-1, 65, 0.5, None)),
    *(("temperature", value) for value in (-1, -1e-9)),
    *(("top_k", value) for value in (0, -1, 2.5)),
    *(("top_p", value) for value in (0, -0.1, 1.1)),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *(("repetition_penalty", value) for value in (0, -1)),
    *((name, value) for name in NUMBERS for value in (np.nan, np.inf, "1", None, True, 10**400)),
    *(("no_repeat_ngram_size", value) for value in (-1, 1.5)),
    *(("suppress_tokens", value) for value in (3, (-1,), ("a",), (1.5,), (2**70,))),
    *(("seed", value) for value in (-1, 1.5, "7")),
    *(("stop", value) for value in ("\n", ("",), ("a", None), None)),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(RequestError, match=f"^{name} .*expected ") as error:
        Sampling(**{name: value})
    assert error.value.setting == name
    assert "\n" not in str(error.value)


def test_lists_and_numbers_of_numpy_are_taken():
    sampling = Sampling(
        temperature=np.float64(0.5),
        top_k=np.int64(3),
        repetition_penalty=np.float64(1.3),
        suppress_tokens=[1, 2],
        stop=["\n"],
    )
    assert sampling.suppress_tokens == (1, 2)
    assert sampling.stop == ("\n",)
    hash(sampling)
    assert Sampler(sampling, [0]).scores(SMALL).dtype == np.float32
