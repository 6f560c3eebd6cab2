"""Picking tokens against transformers' own logits processors, in its own order, and numpy from the
formulas."""

from dataclasses import asdict, fields, replace

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
from transformers.generation.logits_process import MinPLogitsWarper, TypicalLogitsWarper

from pocketvlm.artifact.specs import Generation
from pocketvlm.decoders.sampler import Sampler, make_processors, make_warpers
from pocketvlm.decoders.sampling import NEUTRAL, Sampling, checkpoint_sampling
from pocketvlm.errors import ArtifactError, EngineError, RequestError

VOCABULARY = 24
# Nothing of transformers': OpenAI's, and the schema of an answer.
NOT_THEIRS = ("presence_penalty", "frequency_penalty", "logit_bias", "json_schema")
# They compare probabilities with a limit.
EDGES = (TopPLogitsWarper, MinPLogitsWarper, TypicalLogitsWarper)
WARPERS = (TemperatureLogitsWarper, TopKLogitsWarper, *EDGES)
# Both compute in float64 here, and differ by the order of sums of VOCABULARY terms that are at most
# 1: by 24 * 2^-53 = 3e-15. This leaves room for the rounding of exp.
ROUNDING = 1e-13
# Further than rounding from the limit of top_p or min_p, so that both must keep the same tokens.
MARGIN = 1e-9

values = st.floats(-20, 20, width=32)
logits_arrays = hnp.arrays(np.float32, VOCABULARY, elements=values)
token_ids = st.integers(0, VOCABULARY - 1)


def _some_is_left(sampling):
    """Of the forced tokens; transformers refuses to force what is suppressed."""
    return bool(set(sampling.forced_eos_token_id) - set(sampling.suppress_tokens))


# Prompts of few different tokens, so that runs and sequences come again.
prompts = st.lists(token_ids, max_size=12) | st.lists(st.integers(0, 3), max_size=12)
ids = st.lists(token_ids | st.just(999), max_size=3).map(tuple)
sequences = st.lists(token_ids | st.integers(0, 3), min_size=1, max_size=3).map(tuple)
penalties = st.sampled_from([0.5, 1.0, 1.1, 1.5])
greedy = st.builds(
    Sampling,
    max_new_tokens=st.integers(4, 8),
    min_new_tokens=st.none() | st.integers(0, 4),
    min_length=st.integers(0, 16),
    repetition_penalty=penalties,
    no_repeat_ngram_size=st.integers(0, 4),
    suppress_tokens=ids,
    bad_words_ids=st.lists(sequences, max_size=4).map(tuple),
    begin_suppress_tokens=ids,
    sequence_bias=st.lists(st.tuples(sequences, values), max_size=4).map(tuple),
    encoder_repetition_penalty=penalties,
    encoder_no_repeat_ngram_size=st.integers(0, 4),
    forced_eos_token_id=st.lists(token_ids, max_size=2).map(tuple),
    exponential_decay_length_penalty=st.just(())
    | st.tuples(st.integers(0, 3), st.sampled_from([0.5, 1.0, 1.3])),
    remove_invalid_values=st.booleans(),
).filter(lambda each: not each.forced_eos_token_id or _some_is_left(each))
samplings = st.builds(
    replace,
    greedy,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.3, 5.0]),
    top_k=st.none() | st.integers(1, 30),
    top_p=st.just(1.0) | st.floats(0.05, 1),
    min_p=st.just(0.0) | st.floats(0, 1),
    typical_p=st.just(1.0) | st.floats(0.05, 1),
    remove_invalid_values=st.just(False),
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
    asked = asdict(sampling.settled())
    values = {k: v for k, v in asked.items() if k not in ("seed", "stop", "base", *NOT_THEIRS)}
    # An empty list of words, and of forced tokens, is refused there.
    values = {k: as_json(v) for k, v in values.items() if v not in ((), None)}
    values |= {"top_k": sampling.top_k or 0, "max_length": sampling.max_new_tokens + len(prompt)}
    if sampling.min_new_tokens is not None:  # as `generate` itself prepares it
        values["min_length"] = sampling.min_new_tokens + len(prompt)
    words = [word for word in values.pop("bad_words_ids", ()) if word not in [[e] for e in eos]]
    values |= {"bad_words_ids": words} if words else {}
    if not sampling.temperature:
        del values["temperature"]
    config = GenerationConfig(
        **values, do_sample=bool(sampling.temperature), eos_token_id=list(eos), pad_token_id=0
    )
    MODEL._prepare_special_tokens(config, device="cpu")
    return MODEL._get_logits_processor(
        config,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=torch.tensor([prompt], dtype=torch.int64),
        device="cpu",
    )


def as_json(value):
    return [as_json(each) for each in value] if isinstance(value, tuple) else value


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


@settings(max_examples=120, deadline=None)
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


@settings(max_examples=200, deadline=None)
@given(greedy, prompts, st.sets(token_ids, max_size=2), st.lists(logits_arrays, max_size=8))
def test_greedy_tokens_are_those_of_transformers_to_the_last_bit(sampling, prompt, eos, steps):
    sampler, processors = Sampler(sampling, prompt, eos), theirs(sampling, prompt, eos)
    ids = list(prompt)
    for logits in steps:
        scores = processors(torch.tensor([ids], dtype=torch.int64), torch.from_numpy(logits)[None])
        assert scores.dtype == torch.float32
        assume(np.isfinite(scores.max()))  # what is not is refused
        np.testing.assert_array_equal(sampler.scores(logits), scores[0].numpy())
        ids.append(sampler.pick(logits))
        assert ids[-1] == int(np.flatnonzero(scores[0].numpy() == float(scores.max()))[0])


STEPS = {
    "SequenceBiasLogitsProcessor": "bias_sequences",
    "EncoderRepetitionPenaltyLogitsProcessor": "favour_prompt",
    "RepetitionPenaltyLogitsProcessor": "penalise_repetition",
    "NoRepeatNGramLogitsProcessor": "ban_repeated_ngrams",
    "EncoderNoRepeatNGramLogitsProcessor": "ban_prompt_ngrams",
    "NoBadWordsLogitsProcessor": "ban_sequences",
    "MinLengthLogitsProcessor": "delay_end",
    "MinNewTokensLengthLogitsProcessor": "delay_end",
    "ForcedEOSTokenLogitsProcessor": "force_last",
    "InfNanRemoveLogitsProcessor": "remove_invalid",
    "ExponentialDecayLengthPenalty": "hasten_end",
    "SuppressTokensLogitsProcessor": "suppress",
    "SuppressTokensAtBeginLogitsProcessor": "suppress_first",
    "TemperatureLogitsWarper": "scale",
    "TopKLogitsWarper": "keep_top_k",
    "TopPLogitsWarper": "keep_top_p",
    "MinPLogitsWarper": "keep_min_p",
    "TypicalLogitsWarper": "keep_typical",
}
EVERY = Sampling(
    min_length=9,
    temperature=0.5,
    top_k=3,
    top_p=0.9,
    min_p=0.1,
    typical_p=0.9,
    repetition_penalty=1.2,
    no_repeat_ngram_size=2,
    suppress_tokens=(3,),
    bad_words_ids=((4, 5),),
    begin_suppress_tokens=(6,),
    sequence_bias=(((7,), 1.0),),
    encoder_repetition_penalty=1.1,
    encoder_no_repeat_ngram_size=3,
    forced_eos_token_id=(5,),
    exponential_decay_length_penalty=(1, 1.1),
    remove_invalid_values=True,
)


def names_of(sampling):
    made = (*make_processors(sampling, 2, [5]), *make_warpers(sampling))
    return [getattr(each, "func", each).__name__ for each in made]


def test_the_steps_come_in_the_order_of_transformers():
    expected = [STEPS[type(each).__name__] for each in theirs(EVERY, [1, 2], [5])]
    assert names_of(EVERY) == expected
    assert set(expected) == set(STEPS.values())
    assert names_of(Sampling()) == []
    assert names_of(Sampling().settled()) == []
    assert names_of(replace(EVERY, min_new_tokens=2)) == expected  # one of the two lengths counts


def test_every_setting_is_one_that_is_stated_by_a_checkpoint_or_by_who_asks():
    stated = {*NEUTRAL, *NOT_THEIRS, "max_new_tokens", "seed", "base"}
    assert stated == {each.name for each in fields(Sampling)}


by_openai = st.builds(
    Sampling,
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(token_ids | st.just(999), st.floats(-100, 100), max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(by_openai, prompts, st.lists(logits_arrays, min_size=1, max_size=6))
def test_penalties_and_biases_are_those_of_openais_formula(sampling, prompt, steps):
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, of its API reference, with the bias added;
    c counts the answer alone."""
    sampler, answer = Sampler(sampling, prompt), []
    biases = dict(sampling.logit_bias)
    for logits in steps:
        expected = [
            np.float64(logit)
            - answer.count(token) * sampling.frequency_penalty
            - (token in answer) * sampling.presence_penalty
            + biases.get(token, 0.0)
            for token, logit in enumerate(logits)
        ]
        scores = sampler.scores(logits)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-5)
        answer.append(sampler.pick(logits))


def test_the_prompt_does_not_count_for_openais_penalties():
    logits = np.array([1.0, 1.5, 0.0], np.float32)
    sampler = Sampler(Sampling(presence_penalty=1.0, frequency_penalty=1.0), [1, 1, 1])
    assert [sampler.pick(logits) for _ in range(3)] == [1, 0, 2]


def test_biases_are_taken_as_json_has_them():
    by_text, by_number = Sampling(logit_bias={"7": -3}), Sampling(logit_bias={7: -3.0})
    assert by_text.logit_bias == by_number.logit_bias == ((7, -3.0),)
    assert hash(by_text) == hash(by_number)
    assert replace(by_text, seed=1).logit_bias == ((7, -3.0),)
    assert Sampler(Sampling(logit_bias={"0": 100})).pick(np.array([0, 5], np.float32)) == 0


def test_dropped_tokens_count_for_the_least_length():
    sampling, logits = Sampling(min_length=9), np.array([0, 1], np.float32)
    picked = [Sampler(sampling, [0] * 4, [1], dropped=n).pick(logits) for n in (4, 5, 6)]
    assert picked == [0, 1, 1]


OWN = Sampling(
    base="checkpoint",
    temperature=0.7,
    top_k=5,
    repetition_penalty=1.3,
    min_new_tokens=9,
    stop=("x",),
    bad_words_ids=((1, 2),),
)


def test_what_is_left_out_is_the_checkpoints_own():
    asked = Sampling(max_new_tokens=4).over(OWN)
    assert (asked.repetition_penalty, asked.stop, asked.bad_words_ids) == (1.3, ("x",), ((1, 2),))
    assert asked.min_new_tokens == 4  # no more than there is room for
    assert asked.settled().temperature == 0.0
    assert asked.settled().top_k == 0
    asked = Sampling(base="checkpoint", top_k=2).over(OWN)
    assert (asked.temperature, asked.top_k, asked.settled().top_p) == (0.7, 2, 1.0)


def test_what_is_asked_for_goes_before_the_checkpoints_own():
    off = {"repetition_penalty": 1.0, "min_new_tokens": 0, "stop": (), "bad_words_ids": ()}
    asked = Sampling(**off, temperature=0.1, base="checkpoint").over(OWN)
    assert {name: getattr(asked, name) for name in off} == off
    assert asked.temperature == 0.1
    assert names_of(Sampling(**off).over(OWN)) == []
    # A number of new tokens goes before a length, as in transformers.
    assert names_of(Sampling(min_new_tokens=0).over(Sampling(min_length=50))) == []


@pytest.mark.parametrize("base", ["greedy", "checkpoint"])
def test_an_artifact_that_states_nothing_is_asked_as_ever(base):
    own = checkpoint_sampling(Generation())
    assert Sampling(base=base).over(own).settled() == Sampling(base=base).settled()


@pytest.mark.parametrize(
    ("processors", "reason"),
    [
        ({"repetition_penalty": -1}, "repetition_penalty -1: expected"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"suppress_tokens": 7}, "suppress_tokens"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"guidance_scale": 2.0}, "guidance_scale, which this pocketvlm lacks"),
        ({"base": "greedy"}, "base, which this pocketvlm lacks"),
    ],
)
def test_damaged_or_unknown_settings_of_an_artifact_are_refused(processors, reason):
    with pytest.raises(ArtifactError, match=reason) as error:
        checkpoint_sampling(Generation(processors=processors))
    assert "\n" not in str(error.value)


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


NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty")
COUNTS = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length")
PENALTIES = ("presence_penalty", "frequency_penalty")
IDS = ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")
REFUSED = [
    *(("max_new_tokens", value) for value in (0, -1, 1.5, "8", None, True)),
    *(("min_new_tokens", value) for value in (-1, 65, 0.5)),
    *(("temperature", value) for value in (-1, -1e-9)),
    *(("top_k", value) for value in (-1, 2.5)),
    *(("top_p", value) for value in (0, -0.1, 1.1)),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *(("repetition_penalty", value) for value in (0, -1)),
    *((name, value) for name in NUMBERS for value in (np.nan, np.inf, "1", True, 10**400)),
    *((name, value) for name in COUNTS for value in (-1, 1.5, "2", True)),
    *((name, value) for name in IDS for value in (3, (-1,), ("a",), (1.5,), (2**70,))),
    *(("bad_words_ids", value) for value in (3, (3,), ((),), ((-1,),), (("a",),))),
    *(("sequence_bias", value) for value in (3, (3,), ((1, 2.0),), (((1,), "x"),), (((), 1.0),))),
    *(("sequence_bias", (((1,), value),)) for value in (np.nan, -np.inf, 1e39)),
    *(("exponential_decay_length_penalty", value) for value in (3, (1,), (-1, 2.0), (1, 0))),
    ("remove_invalid_values", 1),
    *((name, value) for name in PENALTIES for value in (-2.1, 3, np.nan, "1", True, None)),
    *(("logit_bias", value) for value in (3, (3,), ((1,),), ((-1, 1.0),), {"x": 1}, {1: 101})),
    *(("logit_bias", {1: value}) for value in (np.nan, "1", None, [1.0])),
    ("base", "sampling"),
    *(("seed", value) for value in (-1, 1.5, "7")),
    *(("stop", value) for value in ("\n", ("",), ("a", None))),
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
        bad_words_ids=[[1, 2], [3]],
        sequence_bias=[[[1, 2], np.float64(1.5)]],
    )
    assert sampling.suppress_tokens == (1, 2)
    assert sampling.bad_words_ids == ((1, 2), (3,))
    assert sampling.sequence_bias == (((1, 2), 1.5),)
    assert sampling.stop == ("\n",)
    hash(sampling)
    assert Sampler(sampling, [0]).scores(SMALL).dtype == np.float32
