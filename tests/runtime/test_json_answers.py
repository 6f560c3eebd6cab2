"""A loaded model held to a JSON schema, in both engines, in conversations and on the command
line."""

import json

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Sampling
from pocketvlm.cli import main
from pocketvlm.decoders.sampler import Sampler
from pocketvlm.errors import RequestError
from pocketvlm.guided import Guided
from support.tiny_artifact import give_gguf, write_artifact

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
MOST = 110


@pytest.fixture(scope="module", params=["onnx", "llama.cpp"])
def folder(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("json") / "artifact"
    weights = write_artifact(root)
    if request.param == "llama.cpp":
        pytest.importorskip("llama_cpp")
        pytest.importorskip("gguf")
        give_gguf(root)
    assert weights
    return root


@pytest.fixture(scope="module")
def model(folder):
    return VLM.load(folder)


def is_valid(text):
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_answers_are_valid_and_stream_as_they_come(model, seed):
    temperature = 0 if seed is None else 1.5
    sampling = Sampling(json_schema=SCHEMA, max_new_tokens=MOST, temperature=temperature, seed=seed)
    answer = model.generate("what?", [PICTURE], sampling=sampling)
    assert is_valid(answer.text)
    assert answer.finish_reason == "stop"
    assert "".join(model.stream("what?", [PICTURE], sampling=sampling)) == answer.text
    free = model.generate("what?", [PICTURE], sampling=Sampling(max_new_tokens=MOST))
    assert free.text != answer.text


def test_an_answer_that_is_cut_says_so_and_one_that_is_whole_does_not(model):
    whole = model.generate("?", sampling=Sampling(json_schema=SCHEMA, max_new_tokens=MOST))
    written = len(whole.token_ids) - 1  # and the end
    cut = model.generate("?", sampling=Sampling(json_schema=SCHEMA, max_new_tokens=written - 1))
    assert cut.finish_reason == "length"
    assert cut.token_ids == whole.token_ids[: written - 1]
    just = model.generate("?", sampling=Sampling(json_schema=SCHEMA, max_new_tokens=written))
    assert (just.finish_reason, just.text) == ("stop", whole.text)


def test_what_cannot_be_asked_of_the_model_is_refused_before_it_is_read(model, monkeypatch):
    monkeypatch.setattr("pocketvlm.text.decoding.text_decoder", lambda _: None)
    fresh = VLM.load(model.artifact.root)
    with pytest.raises(RequestError, match="tell what a single token writes"):
        fresh.stream("what?", sampling=Sampling(json_schema=SCHEMA))


def test_answers_of_a_conversation_are_valid_and_go_on(model):
    chat = model.chat()
    sampling = Sampling(json_schema=SCHEMA, max_new_tokens=MOST)
    first = chat.ask("what?", [PICTURE], sampling=sampling)
    assert is_valid(first.text)
    assert is_valid(chat.ask("and?", sampling=sampling).text)
    # The next question is asked without a schema.
    assert chat.ask("and?", sampling=Sampling(max_new_tokens=3)).finish_reason


def test_a_guides_own_answer_is_held_to_the_schema_too(folder, model):
    guided = Guided(model, VLM.load(folder), confidence=0.0)
    answer = guided.generate("?", sampling=Sampling(json_schema=SCHEMA, max_new_tokens=MOST))
    assert answer.answered_by == "guide"
    assert is_valid(answer.text)


def test_openais_settings_hold_in_both_engines(model, monkeypatch):
    """Each token is the best of the logits that the engine gave, by the formula."""
    seen = []

    class Watched(Sampler):
        def pick(self, logits):
            seen.append(logits.astype(np.float64))
            return super().pick(logits)

    monkeypatch.setattr("pocketvlm.answering.Sampler", Watched)
    free = model.generate("what?", [PICTURE], sampling=Sampling(max_new_tokens=12)).token_ids
    seen.clear()
    settings = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    bias = {free[0]: -100.0, 7: 100.0, 8: 99.0}
    sampling = Sampling(max_new_tokens=12, **settings, logit_bias=bias)
    ids = model.generate("what?", [PICTURE], sampling=sampling).token_ids
    assert len(ids) == len(seen) > 1
    assert ids != free
    for step, logits in enumerate(seen):
        for token, added in bias.items():
            logits[token] += added
        for token in ids[:step]:
            logits[token] -= 2.0
        logits[list(set(ids[:step]))] -= 2.0
        assert ids[step] == int(logits.argmax())


def test_the_command_takes_a_schema_from_a_file(folder, tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    asked = ["run", str(folder), "--prompt", "what?", "--max-new-tokens", str(MOST)]
    done = CliRunner().invoke(main, [*asked, "--json-schema", str(path)])
    assert done.exit_code == 0, done.output
    assert is_valid(done.stdout)
    biased = [*asked, "--logit-bias", "7:100", "--presence-penalty", "2", "--json"]
    done = CliRunner().invoke(main, biased)
    sampling = Sampling(max_new_tokens=MOST, logit_bias={7: 100}, presence_penalty=2)
    expected = VLM.load(folder).generate("what?", sampling=sampling).token_ids
    assert json.loads(done.stdout)["token_ids"] == expected
    path.write_text("{")
    done = CliRunner().invoke(main, [*asked, "--json-schema", str(path)])
    assert done.exit_code == 1
    assert "the JSON schema is not JSON" in done.stderr
    done = CliRunner().invoke(main, [*asked, "--logit-bias", "x"])
    assert done.exit_code == 2
    assert "is not a token id and a number" in done.stderr
