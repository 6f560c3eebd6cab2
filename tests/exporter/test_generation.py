"""What a checkpoint was published with besides its weights: read as transformers reads it, followed
as its ``generate`` follows it, and named where it is not."""

import json
import re
from dataclasses import replace
from itertools import chain

import pytest
from transformers import GenerationConfig

from pocketvlm import VLM, EngineSettings, Sampling
from pocketvlm.artifact import Artifact
from pocketvlm.artifact.manifest import Manifest
from pocketvlm.artifact.specs import Generation
from pocketvlm.decoders import open_decoder
from pocketvlm.errors import CheckpointError
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions
from pocketvlm_export.checkpoint import generation, read_generation
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.packaging.card import write_card
from pocketvlm_export.planning import make_plan
from support.gguf_files import needs_llama_cpp
from support.qwen_vl import Theirs, assistant, noise, user

STEPS = 12
ASKED = Sampling(max_new_tokens=STEPS)
PICTURE = noise(2, 3, seed=4)  # of as many tokens as are kept
QUESTION = "what is it? and what is it? and what is it?"
ENGINES = ["onnx", pytest.param("llama.cpp", marks=needs_llama_cpp)]


@pytest.fixture(scope="module")
def theirs(qwen25, qwen25_pruned):
    return Theirs(qwen25, qwen25_pruned)


@pytest.fixture(scope="module", params=ENGINES)
def published(request, qwen25_pruned):
    """A function that gives the model as if its checkpoint had been published with settings."""
    artifact = Artifact.open(qwen25_pruned)
    one = EngineSettings(threads=1)
    encoder = VisionEncoder.open(artifact, settings=one)
    precision = {"llama.cpp": "f32"}.get(request.param)
    decoder = open_decoder(artifact, engine=request.param, precision=precision, settings=one)

    def with_settings(settings):
        manifest = replace(artifact.manifest, generation=settings)
        # As a device reads it.
        manifest = Manifest.from_json(manifest.to_json())
        return VLM(replace(artifact, manifest=manifest), encoder, decoder)

    yield with_settings
    decoder.close()


@pytest.fixture
def reading(qwen25, tmp_path):
    """What is read of a checkpoint whose file states these settings."""
    config = inspect_checkpoint(str(qwen25), None).spec.config

    def read(**stated):
        (tmp_path / "generation_config.json").write_text(json.dumps(stated))
        return read_generation(tmp_path, config, vocab=config.text_config.vocab_size)

    return read


@pytest.fixture(scope="module")
def plain(theirs):
    """The tokens of the answer by no settings at all, and the prompt's ids."""
    inputs = theirs.read(user(PICTURE, QUESTION))
    theirs.model.generation_config = GenerationConfig(eos_token_id=[2], pad_token_id=0)
    return theirs.generate(inputs, STEPS), inputs["input_ids"][0].tolist()


# Settings by the tokens of the answer that comes without them, so that each changes something.
CASES = {
    "repetition_penalty": lambda t: {"repetition_penalty": 1.5},
    "promoted repetition": lambda t: {"repetition_penalty": 0.7},
    "bad_words_ids": lambda t: {"bad_words_ids": [[t[0]], [t[1], t[2]], [2]]},
    "suppress_tokens": lambda t: {"suppress_tokens": [t[1], t[3], -1, 999_999]},
    "begin_suppress_tokens": lambda t: {"begin_suppress_tokens": [t[0]]},
    "min_new_tokens": lambda t: {"min_new_tokens": 9, "eos_token_id": [t[2], t[5]]},
    "min_length": lambda t: {"min_length": 70, "eos_token_id": [t[2]]},
    "both lengths": lambda t: {"min_length": 70, "min_new_tokens": 1, "eos_token_id": [t[2]]},
    "no_repeat_ngram_size": lambda t: {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": lambda t: {"encoder_no_repeat_ngram_size": 1},
    "encoder_repetition_penalty": lambda t: {"encoder_repetition_penalty": 3.0},
    "forced_eos_token_id": lambda t: {"forced_eos_token_id": 2},
    "forced_bos_token_id": lambda t: {"forced_bos_token_id": 5},
    "exponential_decay": lambda t: {"exponential_decay_length_penalty": [3, 2.5]},
    "sequence_bias": lambda t: {"sequence_bias": [[[t[0]], -9.5], [[t[1], t[2]], -30.0]]},
    "remove_invalid_values": lambda t: {"remove_invalid_values": True, "suppress_tokens": [t[0]]},
    "renormalize_logits": lambda t: {"renormalize_logits": True},
    "sampling, asked greedily": lambda t: {"do_sample": True, "temperature": 0.9, "top_k": 9},
    "all at once": lambda t: {
        "repetition_penalty": 1.2,
        "encoder_repetition_penalty": 1.1,
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 4,
        "bad_words_ids": [[t[0], t[1]], [t[4]]],
        "suppress_tokens": [t[3]],
        "begin_suppress_tokens": [t[0]],
        "sequence_bias": [[[t[5]], 2.0]],
        "min_new_tokens": 5,
        "exponential_decay_length_penalty": [6, 1.5],
        "remove_invalid_values": True,
        "forced_eos_token_id": [2],
    },
}
LEAVES_ALL = {"forced_bos_token_id", "renormalize_logits", "sampling, asked greedily"}


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_generate_on_the_same_folder(published, reading, theirs, plain, case):
    tokens, _ = plain
    stated = {"eos_token_id": [2], "pad_token_id": 0, **CASES[case](tokens)}
    vlm = published(reading(**stated))
    vlm.parts = with_ends(vlm, stated["eos_token_id"])
    theirs.model.generation_config = GenerationConfig(**stated)
    expected = theirs.generate(theirs.read(user(PICTURE, QUESTION)), STEPS)
    answer = vlm.generate(QUESTION, [PICTURE], sampling=ASKED)
    assert answer.token_ids == expected
    assert (answer.token_ids == tokens) is (case in LEAVES_ALL)


def with_ends(vlm, eos):
    """Its parts where these ids end an answer."""
    decoder = replace(vlm.artifact.manifest.decoder, eos_token_ids=tuple(eos))
    manifest = replace(vlm.artifact.manifest, decoder=decoder)
    parts = vlm.parts
    return type(parts)(manifest, parts.viewer, parts.decoder, parts.prompter)


def test_every_turn_of_a_conversation_goes_through_them(published, reading, theirs):
    stated = {"eos_token_id": [2], "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    chat = published(reading(**stated)).chat()
    theirs.model.generation_config = GenerationConfig(**stated, pad_token_id=0)
    messages = []
    for question, pictures in (("what?", [PICTURE]), ("why?", []), ("and this?", [PICTURE])):
        answer = chat.ask(question, pictures, sampling=ASKED)
        messages.append(user(*pictures, question))
        assert answer.token_ids == theirs.generate(theirs.read(*messages), STEPS)
        messages.append(assistant(answer.text.strip()))


def test_a_stop_text_of_the_checkpoint_ends_an_answer(published, reading):
    whole = published(Generation()).generate(QUESTION, [PICTURE], sampling=ASKED).text
    stop = whole[len(whole) // 2 :][:2]
    answer = published(reading(stop_strings=stop)).generate(QUESTION, [PICTURE], sampling=ASKED)
    assert (answer.text, answer.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_what_is_asked_for_goes_before_what_the_checkpoint_states(published, reading):
    vlm = published(reading(repetition_penalty=1.5, do_sample=True, temperature=1e-6))
    plain = published(Generation()).generate(QUESTION, [PICTURE], sampling=ASKED)
    off = replace(ASKED, repetition_penalty=1.0)
    assert vlm.generate(QUESTION, [PICTURE], sampling=off).token_ids == plain.token_ids
    assert vlm.generate(QUESTION, [PICTURE], sampling=ASKED).token_ids != plain.token_ids
    # So small a temperature leaves one token to draw from.
    drawn = vlm.generate(QUESTION, [PICTURE], sampling=replace(off, base="checkpoint"))
    assert drawn.token_ids == plain.token_ids
    assert vlm.checkpoint_sampling.temperature == 1e-6


def test_every_setting_of_transformers_has_its_place():
    """A new release that has another one names it here."""
    tables = [
        generation.PROCESSORS,
        generation.WARPERS,
        generation.UNFOLLOWED,
        generation.SAMPLED,
        generation.LIMITS,
        generation.IGNORED,
    ]
    names = list(chain.from_iterable(tables))
    assert len(names) == len(set(names))
    theirs = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert set(names) == theirs
    neutral = {**GenerationConfig._get_default_generation_params(), "max_length": None}
    assert GenerationConfig(**neutral)  # and what changes nothing is taken for nothing:


def test_transformers_own_defaults_are_nothing(reading):
    defaults = GenerationConfig._get_default_generation_params()
    del defaults["max_length"]  # a limit, which is named
    assert reading(**defaults) == Generation()
    assert reading() == Generation()
    assert reading(**dict.fromkeys(vars(GenerationConfig()))) == Generation()  # null is absent


def test_how_a_checkpoint_samples_is_kept_for_who_asks(reading):
    stated = reading(do_sample=True, top_p=0.8, min_p=0.1, typical_p=0.9, temperature=None)
    drawn = {"temperature": 1.0, "top_k": 50, "top_p": 0.8, "min_p": 0.1, "typical_p": 0.9}
    assert stated == Generation(sampling=drawn)
    assert reading(do_sample=True, top_k=0).sampling == {"temperature": 1.0}
    assert reading(do_sample=True, top_k=1, top_p=0.0).sampling["top_p"] > 0
    # Greedy answers of transformers leave them out too.
    assert reading(temperature=0.2, top_k=3) == Generation()
    # It refuses to sample so, and answers greedily all the same.
    refused = reading(do_sample=True, temperature=-1.0)
    assert (refused.sampling, refused.not_applied["temperature"]) == ({}, -1.0)


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4}),
        ({"num_beams": 3, "num_return_sequences": 2}, {"num_beams": 3, "num_return_sequences": 2}),
        ({"guidance_scale": 1.5}, {"guidance_scale": 1.5}),
        ({"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": 0.6}),
        ({"do_sample": True, "eta_cutoff": 1e-3, "top_h": 0.4}, {"eta_cutoff": 1e-3, "top_h": 0.4}),
        ({"epsilon_cutoff": 1e-3}, {}),
        ({"max_new_tokens": 128, "max_length": 9}, {"max_new_tokens": 128}),
        ({"max_length": 4096}, {"max_length": 4096}),
        ({"max_new_tokens": 64}, {}),
        ({"some_key_of_nobodys": 3, "transformers_version": "4.37.0"}, {}),
    ],
)
def test_what_no_answer_follows_is_named(reading, stated, named):
    made = reading(**stated)
    assert made.not_applied == named
    warnings = " ".join(generation.generation_warnings(made))
    notes = " ".join(generation.generation_notes(made))
    for name, value in named.items():
        limit = name in generation.LIMITS
        assert (f"{name} {value}" in notes, f"{name} {value}" in warnings) == (limit, not limit)
    assert bool(warnings) is bool(set(named) - set(generation.LIMITS))


REFUSED = [
    {"repetition_penalty": -1.0},
    {"repetition_penalty": "1.1"},
    {"repetition_penalty": 2},  # transformers wants a fraction
    {"bad_words_ids": []},
    {"bad_words_ids": [[]]},
    {"bad_words_ids": [3]},
    {"bad_words_ids": [[10_000_000]]},
    {"suppress_tokens": 7},
    {"suppress_tokens": ["a"]},
    {"suppress_tokens": [[1], [2]]},
    {"begin_suppress_tokens": {"a": 1}},
    {"no_repeat_ngram_size": 1.5},
    {"no_repeat_ngram_size": "2"},
    {"min_new_tokens": "9"},
    {"min_new_tokens": -3},
    {"sequence_bias": [[[1], 2]]},
    {"sequence_bias": {"1": 2.0}},
    {"sequence_bias": 3},
    {"forced_eos_token_id": "x"},
    {"forced_eos_token_id": 10_000_000},
    {"suppress_tokens": [4], "forced_eos_token_id": 4},
    {"exponential_decay_length_penalty": 3},
    {"exponential_decay_length_penalty": ["a", 1.1]},
    {"exponential_decay_length_penalty": [2, -1.5]},
    {"remove_invalid_values": 1},
    {"stop_strings": [3]},
    {"stop_strings": ""},
    {"encoder_repetition_penalty": 0.0},
    {"encoder_no_repeat_ngram_size": 2.5},
    {"max_new_tokens": 0},
    {"num_return_sequences": 3},
    {"watermarking_config": {"x": 1}},
]


@pytest.mark.parametrize("stated", REFUSED, ids=str)
def test_settings_that_transformers_refuses_are_one_line(reading, stated):
    with pytest.raises(CheckpointError, match=r"generation settings.*generation_config\.json") as e:
        reading(**stated)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["", "[1]", "7", "{", '"x"', "null", "[" * 100_000])
def test_a_file_that_is_no_object_is_one_line(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(
        CheckpointError, match=r"generation_config\.json (is not|holds no)"
    ) as error:
        generation.generation_settings(tmp_path, None)
    assert "\n" not in str(error.value)


def test_the_artifact_says_how_its_checkpoint_answers(qwen25, tmp_path):
    plan = make_plan(inspect_checkpoint(str(qwen25), None), ExportOptions(budgets=(6,)))
    assert plan.generation.processors == {"repetition_penalty": 1.05}
    assert plan.generation.sampling["temperature"] == 1e-6
    assert "repetition_penalty 1.05" in " ".join(plan.to_dict()["notes"])
    beams = replace(plan, generation=replace(plan.generation, not_applied={"num_beams": 4}))
    assert re.search("num_beams 4.*no answer of the artifact follows", " ".join(beams.warnings))
    write_card(beams, tmp_path)
    card = (tmp_path / "README.md").read_text()
    for stated in ("repetition_penalty 1.05", "temperature 1e-06", "--sampling", "num_beams 4"):
        assert stated in card


def test_an_exported_artifact_states_them(qwen25_pruned):
    manifest = Artifact.open(qwen25_pruned).manifest
    assert manifest.generation.processors == {"repetition_penalty": 1.05}
    assert manifest.parity.decoder["greedy_equal"] == 16
    assert manifest.parity.by_precision["f32"]["greedy_equal"] == 16
