"""`make parity` in small, one family in float32 and int8; and that in int8 an answer does not
depend on what was asked before, where runs are fixed."""

import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from parity import __main__ as command
from parity import cases, run
from parity.cases import DEFAULT, NONE, Setting
from parity.compare import SAMPLING, FirstLogits
from parity.drawn import Form, draw
from parity.rows import Rows
from parity.table import failed, figures
from parity.theirs import media_of
from pocketvlm import VLM, Sampling
from pocketvlm.decoders import prefix
from pocketvlm.limits import FeatureLimits, Limits, SequenceLimits
from pocketvlm_export import ExportOptions, export
from support.shared import write_once

NAME = "tiny-llama"
EXACT, INT8 = Setting("fp32"), Setting("int8", decoder="int8")
QUESTIONS = 12


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    def write(folder):
        options = ExportOptions(decoder_precisions=("fp32", "int8", "int4"))
        export(str(tiny_checkpoint), folder, options)

    return write_once(tmp_path_factory, "parity", write)


@pytest.fixture(scope="module")
def unpruned(tiny_checkpoint, tmp_path_factory):
    def write(folder):
        export(str(tiny_checkpoint), folder, ExportOptions(pruner="none"))

    return write_once(tmp_path_factory, "parity-none", write)


def compared(checkpoint, folder, method, path, *settings_):
    with Rows(path, {}) as rows:
        run.compare_artifact(str(checkpoint), folder, (NAME, method), settings_, QUESTIONS, rows)
        return dict(rows.by_key)


def test_drawn_questions_are_of_every_kind_and_the_same_at_every_call():
    drawn = draw(0, 40, Form(), lambda _: True)
    again = draw(0, 40, Form(), lambda _: True)
    pictures = [
        [picture.tobytes() for each in d for picture in media_of(each)] for d in (drawn, again)
    ]
    assert pictures[0] == pictures[1]
    texts = "".join(message["content"][-1]["text"] for each in drawn for message in each)
    assert any(ord(letter) > 0x2FFF for letter in texts)
    assert {len(media_of(each)) for each in drawn} == {1, 2}
    assert {each[0]["role"] for each in drawn} == {"system", "user"}
    assert {sum(message["role"] == "user" for message in each) for each in drawn} == {1, 2}
    assert len({picture.size for each in drawn for picture in media_of(each)}) > 40


def test_float32_answers_as_hugging_face_does_and_int8_is_counted(
    tiny_checkpoint, exported, unpruned, tmp_path
):
    path = tmp_path / "rows.jsonl"
    pruned = compared(tiny_checkpoint, exported, DEFAULT, path, EXACT, INT8)
    whole = compared(tiny_checkpoint, unpruned, NONE, path, EXACT)
    assert len(whole) == 3 * QUESTIONS  # what was compared before is read, not asked again
    assert not failed(whole)
    assert {row["logits"] < 1e-4 for key, row in whole.items() if key[2] == "fp32"} == {True}
    by_setting = {(each["method"], each["setting"]): each for each in figures(pruned)}
    assert by_setting[DEFAULT, "fp32"]["kept_differ"] == 0
    assert by_setting[DEFAULT, "int8"]["logits"] > 1e-3  # it is another decoder


@pytest.mark.parametrize("fault", ["token", "logits", "kept"])
def test_a_planted_difference_is_reported(fault, tiny_checkpoint, exported, tmp_path, monkeypatch):
    """In float32 it fails, by exit code 3, once what differs is not a tie."""
    asked = run.ask

    def altered(vlm, messages):
        ours = asked(vlm, messages)
        if fault == "token":
            ours.token_ids[3] = (ours.token_ids[3] + 1) % 512
        if fault == "logits":
            ours.logits[7] += 1e-3 * np.abs(ours.logits).max()
        if fault == "kept":
            kept = ours.features[0][0].kept_indices
            kept[0, -1] = next(n for n in range(36) if n not in kept[0] and n > kept[0, -2])
        return ours

    monkeypatch.setattr(run, "ask", altered)
    monkeypatch.setattr(run, "METHODS", (DEFAULT,))
    monkeypatch.setattr(command, "METHODS", (DEFAULT,))
    monkeypatch.setattr(run, "artifact_of", lambda *_: (str(tiny_checkpoint), exported))
    monkeypatch.setattr(run, "settings_of", lambda _: [EXACT])
    arguments = ["--build", str(tmp_path), "--only", NAME, "--questions", "1"]
    result = CliRunner().invoke(
        command.main, [*arguments, "--figures", str(tmp_path / "figures.json")]
    )
    assert result.exit_code == 3
    assert f"differs: ('{NAME}', 'default', 'fp32', 0)" in result.stderr
    (row,) = json.loads((tmp_path / "figures.json").read_text())
    assert row["failed"] == 1


def test_every_checkpoint_of_the_generator_is_among_them():
    assert len(cases.checkpoints()) > 20
    assert cases.checkpoints()[0] == cases.DEMO


PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8)
    for seed in range(3)
]
TEXTS = ["what?", "what is it?", "what is it then, and where is the circle?", "w " * 40]
question = st.tuples(st.sampled_from(TEXTS), st.lists(st.integers(0, 2), max_size=2).map(tuple))
BRIEF = Sampling(max_new_tokens=3)
FIXED = Limits(sequences=SequenceLimits(fixed_runs=True))
FORGETFUL = Limits(
    features=FeatureLimits(memory_bytes=0),
    sequences=SequenceLimits(memory_bytes=0, kept=0, fixed_runs=True),
)


@pytest.fixture(scope="module", params=["int8", "int8+int4"])
def fixed(request, exported):
    """A model that keeps everything, one that keeps nothing, and one that answers once."""
    setting = Setting(request.param, decoder=request.param)
    with (
        closing(setting.load(exported, FIXED)) as keeping,
        closing(setting.load(exported, FORGETFUL)) as forgetful,
        pytest.MonkeyPatch.context() as patch,
    ):
        # So that what a tiny context takes has several runs of each kind.
        patch.setattr(prefix, "_LONGEST_TEXT", 16)
        patch.setattr(prefix, "_LEAST_BEGINNING", 4)
        yield keeping, forgetful, request.param


def taken(vlm, asked):
    """Tokens, and the logits that each was picked from."""
    rows = []

    class Every(FirstLogits):
        def picked(self, logits, token_id):
            rows.append(logits.tobytes())

    text, pictures = asked
    request = vlm.prepare(text, [PICTURES[number] for number in pictures], sampling=BRIEF)
    answer = vlm.parts.begin(dataclasses.replace(request, witness=Every())).answer
    return answer.token_ids, rows


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(question, st.booleans()), max_size=5), question)
def test_in_int8_a_question_is_answered_alike_whatever_was_asked_before(fixed, history, asked):
    """Logits of every step, bit for bit, behind questions and conversations of any kind."""
    keeping, forgetful, _ = fixed
    chat = keeping.chat()
    for (text, pictures), talks in history:
        images = [PICTURES[number] for number in pictures]
        if talks:
            chat.ask(text, images, sampling=BRIEF)
        else:
            keeping.generate(text, images, sampling=BRIEF)
    assert taken(keeping, asked) == taken(forgetful, asked)


def test_in_int8_the_first_question_of_a_conversation_is_a_question(fixed, exported):
    keeping, forgetful, precision = fixed
    once = VLM.load(exported, decoder_precision=precision, once=True, check="sizes", limits=FIXED)
    answers = [
        keeping.chat().ask(TEXTS[1], [PICTURES[0]], sampling=SAMPLING),
        once.generate(TEXTS[1], [PICTURES[0]], sampling=SAMPLING),
        forgetful.generate(TEXTS[1], [PICTURES[0]], sampling=SAMPLING),
    ]
    assert len({tuple(answer.token_ids) for answer in answers}) == 1


def test_what_is_kept_in_int8_is_still_gone_on_from(fixed):
    """The picture is not read again for another question, nor what every prompt begins with for
    another picture."""
    keeping, _, _ = fixed
    beginning = len(keeping.parts.prompter.beginning)
    cached = [
        keeping.generate(text, [PICTURES[number]], sampling=BRIEF).prompt_tokens["cached"]
        for text, number in [(TEXTS[0], 2), (TEXTS[1], 2), (TEXTS[1], 2)]
    ]
    assert beginning + keeping.budget <= cached[1] == cached[2]
    other = np.random.default_rng(9).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    after = keeping.generate(TEXTS[1], [other], sampling=BRIEF).prompt_tokens["cached"]
    assert after == beginning > 0
