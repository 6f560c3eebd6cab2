"""Which sequence a question continues from: every answer is that of a model that was asked nothing
else, and no tower and no picture is computed twice."""

import functools
import importlib.util
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvlm import VLM, EngineSettings, Limits, Sampling
from pocketvlm.decoders.onnx import OnnxSequence
from pocketvlm.errors import EngineError
from pocketvlm.limits import NOTHING_KEPT, FeatureLimits, SequenceLimits
from pocketvlm.vision import viewer
from pocketvlm.vision.encoder import VisionEncoder
from support.tiny_artifact import (
    TEMPLATE,
    give_attention,
    give_gguf,
    give_selectors,
    write_artifact,
)
from support.tiny_graphs import HIDDEN

PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8) for seed in range(3)
]
BUDGET = 6
BRIEF = Sampling(max_new_tokens=4)
# What stands before the first picture, as the system texts of published templates do.
SYSTEM = "SYSTEM: you see pictures and say what is in them\n"
HAS_LLAMA = all(importlib.util.find_spec(name) for name in ("llama_cpp", "gguf"))
ENGINES = [
    "onnx",
    pytest.param("llama.cpp", marks=pytest.mark.skipif(not HAS_LLAMA, reason="not installed")),
]


def load(root, **options):
    return VLM.load(root, settings=EngineSettings(threads=1), **options)


@pytest.fixture(params=[*ENGINES, "by the question", "pictures", "prompt"], scope="module")
def artifact(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("sequences") / "tiny"
    weights = write_artifact(root, template=SYSTEM + TEMPLATE)
    if request.param == "llama.cpp":
        give_gguf(root)
    if request.param == "by the question":
        give_selectors(root, weights)
    if request.param in ("pictures", "prompt"):
        give_attention(root, weights, request.param)
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain") / "tiny"
    write_artifact(root, template=SYSTEM + TEMPLATE)
    return root


@pytest.fixture
def work(monkeypatch):
    """Pictures encoded, and tokens of each prefill."""
    done = {"encoded": 0, "prefilled": []}
    encode, prefill = VisionEncoder.encode, OnnxSequence.prefill

    def count_encoded(self, pixel_values, *rest):
        done["encoded"] += len(pixel_values)
        return encode(self, pixel_values, *rest)

    def count_prefilled(self, segments):
        done["prefilled"].append(sum(map(len, segments)))
        return prefill(self, segments)

    monkeypatch.setattr(VisionEncoder, "encode", count_encoded)
    monkeypatch.setattr(OnnxSequence, "prefill", count_prefilled)
    return done


def ask(vlm, question, *numbers):
    return vlm.generate(question, [PICTURES[number] for number in numbers], sampling=BRIEF)


def test_a_side_question_does_not_evict_the_picture(plain, work):
    vlm = load(plain)
    ask(vlm, "what is it?", 0)
    for number, side in enumerate(["a title", "tags", "what next?", "and more?", "a name"]):
        assert ask(vlm, side).prompt_tokens["cached"] > 0, number
    ask(vlm, "what is it?", 1)
    assert work["encoded"] == 2
    second = ask(vlm, "is it red?", 0)
    assert work["encoded"] == 2
    assert work["prefilled"][-1] == second.prompt_tokens["total"] - second.prompt_tokens["cached"]
    text = len(vlm.parts.prompter.encode("is it red?"))
    assert work["prefilled"][-1] < text  # not even the template's beginning, and no picture
    assert second.token_ids == ask(load(plain), "is it red?", 0).token_ids


def test_the_beginning_of_the_template_is_read_once(plain, work):
    vlm = load(plain, limits=Limits(sequences=SequenceLimits(kept=1)))
    beginning = len(vlm.parts.prompter.beginning)
    assert beginning >= len(SYSTEM) // 2
    assert vlm.chat().ask("what?", [PICTURES[0]], sampling=BRIEF).prompt_tokens["cached"] == 0
    for number in (1, 2, 0):  # the conversations are gone, and what they held
        answer = vlm.chat().ask("why?", [PICTURES[number]], sampling=BRIEF)
        assert answer.prompt_tokens["cached"] == beginning
        assert work["prefilled"][-1] == answer.prompt_tokens["total"] - beginning


def test_an_answer_is_not_lost_where_nothing_can_be_left_for_others(plain, monkeypatch, caplog):
    expected = ask(load(plain), "what is it?", 0)
    forked = []

    def fork(self, length):
        forked.append(length)
        raise EngineError("no memory for a context", advice="free some")

    monkeypatch.setattr(OnnxSequence, "fork", fork)
    with caplog.at_level("DEBUG", logger="pocketvlm"):
        vlm = load(plain)
        answer = ask(vlm, "what is it?", 0)
    assert forked
    assert "no memory for a context" in caplog.text
    assert (answer.text, answer.token_ids) == (expected.text, expected.token_ids)
    del forked[:]
    once = load(plain, once=True)
    assert ask(once, "what is it?", 0).token_ids == expected.token_ids
    assert not forked  # there are no others
    assert once.cache_bytes == 0


def test_conversations_share_what_they_have_in_common(plain, work):
    vlm = load(plain)
    one, two = vlm.chat(), vlm.chat()
    first = one.ask("what is it?", [PICTURES[0]], sampling=BRIEF)
    other = two.ask("how many?", [PICTURES[0]], sampling=BRIEF)
    assert work["encoded"] == 1
    assert other.prompt_tokens["cached"] > len(vlm.parts.prompter.beginning) + BUDGET
    after = one.ask("why?", sampling=BRIEF)
    assert after.prompt_tokens["cached"] >= first.prompt_tokens["total"]
    alone = load(plain).chat()
    assert alone.ask("what is it?", [PICTURES[0]], sampling=BRIEF).token_ids == first.token_ids
    assert alone.ask("why?", sampling=BRIEF).token_ids == after.token_ids


def test_no_more_sequences_are_kept_than_the_limit(plain):
    for kept in (0, 1, 2):
        vlm = load(plain, limits=Limits(sequences=SequenceLimits(kept=kept)))
        sizes = []
        for question, number in itertools.product(["what is it?", "is it red?"], range(3)):
            ask(vlm, question, number)
            sizes.append(vlm.cache_bytes)
        assert (sizes[-1] == 0) == (kept == 0)
        assert max(sizes) <= (kept + 1) * sizes[0]  # the beginning is less than one
        vlm.close()
        assert vlm.cache_bytes == 0


def test_a_picture_file_is_recognised_before_it_is_decoded(plain, work, tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, picture in zip(paths, PICTURES, strict=False):
        Image.fromarray(picture).save(path)
    vlm, opened, real = load(plain), [], viewer.open_picture
    monkeypatch.setattr(viewer, "open_picture", lambda *given: opened.append(1) or real(*given))
    first = vlm.generate("what is it?", [paths[0]], sampling=BRIEF)
    paths[0].rename(tmp_path / "renamed.png")
    second = vlm.generate("is it red?", [(tmp_path / "renamed.png").read_bytes()], sampling=BRIEF)
    assert (len(opened), work["encoded"]) == (1, 1)
    assert second.kept_indices == first.kept_indices
    assert second.token_ids == ask(load(plain), "is it red?", 0).token_ids
    # The same name with another picture in it is another picture.
    paths[1].rename(tmp_path / "renamed.png")
    opened.clear()
    other = vlm.generate("what is it?", [tmp_path / "renamed.png"], sampling=BRIEF)
    assert (len(opened), work["encoded"]) == (1, 3)  # one by the model of its own above
    assert other.token_ids == ask(load(plain), "what is it?", 1).token_ids


def test_a_recognised_picture_whose_features_go_is_decoded_again(plain, work, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PICTURES[0]).save(path)
    one = 6 * HIDDEN * 4 + 6 * (8 + 4)  # bytes of a picture's features
    limits = Limits(
        features=FeatureLimits(memory_bytes=one), sequences=SequenceLimits(memory_bytes=0, kept=0)
    )
    vlm = load(plain, limits=limits)
    first = vlm.generate("what is it?", [path], sampling=BRIEF)
    stream = vlm.stream("what is it?", [path], sampling=BRIEF)  # recognised
    ask(vlm, "what is it?", 1)  # whose features take the room of the other's
    assert stream.answer.token_ids == first.token_ids
    assert work["encoded"] == 3


def test_nothing_is_reused_where_nothing_is_kept(plain, work):
    vlm = load(plain, limits=NOTHING_KEPT)
    answers = [ask(vlm, "what is it?", 0) for _ in range(2)]
    assert [answer.prompt_tokens["cached"] for answer in answers] == [0, 0]
    assert work["encoded"] == 2


# A question, the numbers of its pictures, and which conversation asks it; None for none.
QUESTIONS = st.tuples(
    st.sampled_from(["what is it?", "what is red?", "why", ""]),
    st.lists(st.integers(0, 2), max_size=2),
    st.sampled_from([None, None, 0, 1]),
)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(QUESTIONS, min_size=2, max_size=7), st.integers(1, 3), st.sampled_from([1 << 30, 9000])
)
def test_any_order_of_questions_is_answered_as_by_a_fresh_model(artifact, asked, kept, memory):
    limits = Limits(sequences=SequenceLimits(memory_bytes=memory, kept=kept))
    vlm, fresh = load(artifact, limits=limits), _fresh(artifact)
    chats = [[vlm.chat(), fresh.chat()] for _ in range(2)]
    for question, numbers, chat in asked:
        pictures = [PICTURES[number] for number in numbers]
        if chat is None:
            ours, theirs = (
                each.generate(question, pictures, sampling=BRIEF) for each in (vlm, fresh)
            )
        else:
            ours, theirs = (each.ask(question, pictures, sampling=BRIEF) for each in chats[chat])
        assert ours.token_ids == theirs.token_ids
        assert ours.kept_indices == theirs.kept_indices
        assert ours.prompt_tokens["total"] == theirs.prompt_tokens["total"]


@functools.cache
def _fresh(root):
    return load(root, limits=NOTHING_KEPT)


def test_threads_that_share_beginnings_get_what_one_alone_gets(artifact):
    asked = [("what is it?", (0,)), ("is it red?", (0,)), ("why?", ()), ("both?", (0, 1))]
    expected = [ask(_fresh(artifact), question, *numbers).token_ids for question, numbers in asked]
    vlm = load(artifact, limits=Limits(sequences=SequenceLimits(kept=2)))
    wrong = []

    def work(first):
        for step in range(len(asked)):
            number = (first + step) % len(asked)
            answer = ask(vlm, asked[number][0], *asked[number][1])
            if answer.token_ids != expected[number]:
                wrong.append((number, answer.token_ids))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
