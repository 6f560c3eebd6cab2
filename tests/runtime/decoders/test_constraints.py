"""Answers held to JSON schemas: every one that ends is valid by `jsonschema`, whatever the logits;
which tokens may come is held against all answers of small schemas, written down."""

import json
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pocketvlm.decoders.sampler import Sampler
from pocketvlm.decoders.sampling import Sampling
from pocketvlm.errors import RequestError
from pocketvlm.text.decoding import token_bytes
from pocketvlm.text.streaming import Detokenizer
from support.schemas import RandomModel, grammars_of, plain_scalars, schemas
from support.tiny_artifact import byte_tokenizer
from support.tiny_tokenizers import byte_level, sentence_pieces
from train_demo.__main__ import DEMO

pytest.importorskip("llguidance")

TOKENIZERS = {
    "tiny": byte_tokenizer(),
    "qwen2": byte_level("qwen2"),
    "sentencepiece": sentence_pieces(),
    "demo": Tokenizer.from_file(str(Path(DEMO) / "tokenizer.json")),
}
GRAMMARS = {name: grammars_of(tokenizer) for name, tokenizer in TOKENIZERS.items()}
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
MOST = 400  # tokens; of the schemas here no answer has as many
BEFORE = ("", " ", "\n")


@each_tokenizer
@settings(max_examples=25, deadline=None)
@given(schemas, st.integers(0, 1 << 20), st.sampled_from([0.0, 0.5, 3.0]))
def test_every_answer_of_random_weights_is_valid(name, schema, seed, temperature):
    model = RandomModel(TOKENIZERS[name], schema, seed, GRAMMARS[name], temperature=temperature)
    ids, text = model.answer(MOST, extra=seed % 3)
    assert ids[-1] == model.eos
    jsonschema.validate(json.loads(text), schema)
    assert text.lstrip() == text.strip()


@each_tokenizer
def test_any_object_is_one(name):
    for seed in range(3):
        model = RandomModel(TOKENIZERS[name], "object", seed, GRAMMARS[name], temperature=1.0)
        assert model.sampling.json_schema == '{"type":"object"}'
        ids, text = model.answer(MOST)
        if ids[-1] == model.eos:
            assert isinstance(json.loads(text), dict)
        else:
            assert text.lstrip().startswith("{")


@each_tokenizer
@settings(max_examples=15, deadline=None)
@given(st.lists(plain_scalars, min_size=1, max_size=4), st.integers(0, 1 << 20))
def test_the_tokens_that_may_come_are_those_of_all_answers_written_down(name, values, seed):
    """The end may come exactly where one of them is whole."""
    tokenizer, rng = TOKENIZERS[name], np.random.default_rng(seed)
    eos, written = tokenizer.token_to_id("</s>"), token_bytes(tokenizer)
    answers = {
        (before + json.dumps(value, ensure_ascii=False)).encode()
        for value in values
        for before in BEFORE
    }
    text = Sampling(json_schema={"enum": values}).json_schema
    constraint, prefix = GRAMMARS[name].constraint(text), b""
    for _ in range(MOST):
        expected = {
            token
            for token, part in enumerate(written)
            if part and any(answer.startswith(prefix + part) for answer in answers)
        }
        expected |= {eos} if prefix in answers else set()
        allowed = constraint.allowed(len(written) + 5)
        assert set(np.flatnonzero(allowed)) == expected
        assert constraint.is_whole == (expected == {eos})
        token = int(rng.choice(sorted(expected)))
        constraint.follow(token)
        if token == eos:
            return
        prefix += written[token]
    raise AssertionError("it does not end")


@each_tokenizer
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_an_answer_that_fits_comes_as_without_a_schema(name, data):
    """However the model writes it: greedy picks are those of the logits alone."""
    tokenizer = TOKENIZERS[name]
    eos = tokenizer.token_to_id("</s>")
    value = {
        "n": data.draw(st.integers(-99, 99)),
        "t": data.draw(st.text('ab é中"\\', max_size=6)),
        "l": data.draw(st.lists(st.booleans(), max_size=2)),
    }
    indent = data.draw(st.sampled_from([None, 2]))
    separators = data.draw(st.sampled_from([None, (",", ":")]))
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    own = [*tokenizer.encode(text, add_special_tokens=False).ids, eos]
    properties = {
        "n": {"type": "integer"},
        "t": {"type": "string"},
        "l": {"type": "array", "items": {"type": "boolean"}},
    }
    sampling = Sampling(json_schema={"type": "object", "properties": properties})
    constraint = GRAMMARS[name].constraint(sampling.json_schema)
    sampler = Sampler(sampling, [], [eos], constraint=constraint)
    rng = np.random.default_rng(len(text))
    for token in own:
        logits = rng.normal(size=tokenizer.get_vocab_size()).astype(np.float32)
        logits[token] = 20
        assert sampler.pick(logits) == token
    detokenizer = Detokenizer(tokenizer)
    for token in own[:-1]:
        detokenizer.push(token)
    assert json.loads(detokenizer.text) == value


@each_tokenizer
def test_what_the_schema_leaves_no_choice_of_is_forced(name):
    schema = {
        "type": "object",
        "properties": {"colour": {"const": 'blue "é"'}, "count": {"const": 7}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    for seed in range(4):
        model = RandomModel(TOKENIZERS[name], schema, seed, GRAMMARS[name])
        _, text = model.answer(MOST)
        assert "".join(text.split()) == '{"colour":"blue\\"é\\"","count":7}'
        assert json.loads(text) == {"colour": 'blue "é"', "count": 7}


def test_a_tokens_text_is_what_the_tokenizer_writes():
    """Each token by itself behind another, against the library's own decoding."""
    for tokenizer in TOKENIZERS.values():
        written = token_bytes(tokenizer)
        before = tokenizer.token_to_id("a")
        added = tokenizer.get_added_tokens_decoder()
        special = {token for token, content in added.items() if content.special}
        for token, part in enumerate(written):
            text = tokenizer.decode([before, token])
            assert text == "a" + part.decode("utf-8", errors="replace"), token
            assert bool(part) == (token not in special)


def test_tokens_whose_text_depends_on_others_are_refused():
    for decoder in (None, decoders.WordPiece(), decoders.BPEDecoder()):
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
        if decoder is not None:
            tokenizer.decoder = decoder
        assert token_bytes(tokenizer) is None
        with pytest.raises(RequestError, match="tell what a single token writes") as error:
            grammars_of(tokenizer).constraint('{"type":"null"}')
        assert error.value.setting == "json_schema"


def test_a_vocabulary_that_cannot_write_the_answer_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "</s>": 1}, unk_token="x"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    sampling = Sampling(json_schema={"type": "null"})
    sampler = Sampler(
        sampling, [], [1], constraint=grammars_of(tokenizer).constraint(sampling.json_schema)
    )
    with pytest.raises(RequestError, match="cannot be followed further") as error:
        sampler.pick(np.zeros(2, np.float32))
    assert error.value.setting == "json_schema"


def test_settings_about_the_end_give_way_and_others_are_refused_where_nothing_is_left():
    grammars, tokenizer = GRAMMARS["tiny"], TOKENIZERS["tiny"]
    ends = {"min_new_tokens": 30, "min_length": 90, "forced_eos_token_id": (5,)}
    model = RandomModel(tokenizer, {"const": 1}, 0, grammars, **ends, max_new_tokens=30)
    assert model.answer(MOST)[1].strip() == "1"
    every = tuple(range(tokenizer.get_vocab_size()))
    model = RandomModel(tokenizer, {"const": 1}, 0, grammars, suppress_tokens=every)
    with pytest.raises(RequestError, match="every token that the JSON schema allows"):
        model.answer(1)


def test_answers_do_not_share_their_state():
    grammars, tokenizer = GRAMMARS["tiny"], TOKENIZERS["tiny"]
    models_ = [RandomModel(tokenizer, {"enum": [12, "a"]}, seed, grammars) for seed in range(6)]
    alone = [
        RandomModel(tokenizer, {"enum": [12, "a"]}, seed, grammars).answer(MOST)
        for seed in range(6)
    ]
    for model in models_:
        model.answer(1)
    # Each continues from its own first token.
    assert [each.answer(MOST)[0][-1] for each in models_] == [ids[-1] for ids, _ in alone]


def test_without_the_library_the_refusal_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(RequestError, match="needs the package llguidance") as error:
        Sampling(json_schema={"type": "integer", "title": "not asked before"})
    assert error.value.advice == "pip install 'pocketvlm[grammar]'"
    assert error.value.setting == "json_schema"
