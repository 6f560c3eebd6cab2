"""Conversations: every answer equals that to the whole conversation asked at once, and nothing is
computed twice."""

import gc
import itertools

import numpy as np
import pytest

from pocketvlm import VLM, Limits, PocketVLMError, Sampling
from pocketvlm.decoders.onnx import OnnxSequence
from pocketvlm.decoders.pool import SequenceLimits
from pocketvlm.errors import EngineError, RequestError
from pocketvlm.limits import APART
from pocketvlm.vision.encoder import VisionEncoder
from support.tiny_artifact import write_artifact
from support.tiny_graphs import CONTEXT, PATCHES, reference_logits, reference_vision

BUDGET = 6


@pytest.fixture
def weights(tmp_path):
    return write_artifact(tmp_path / "a", budgets=(BUDGET, 12))


@pytest.fixture
def vlm(weights, tmp_path):
    return VLM.load(tmp_path / "a", limits=APART)


@pytest.fixture
def other(picture):
    return np.ascontiguousarray(255 - picture[::-1])


@pytest.fixture
def encoded(monkeypatch):
    calls, real = [], VisionEncoder.encode

    def encode(self, pixel_values, *rest):
        calls.append(len(pixel_values))
        return real(self, pixel_values, *rest)

    monkeypatch.setattr(VisionEncoder, "encode", encode)
    return calls


def by_hand(weights, vlm, chat, question, pictures, steps):
    """Greedy ids after the whole conversation and one more question, from the numpy twins of the
    graphs."""
    messages = [*chat.messages, *question]
    ids = vlm.parts.prompter.encode_messages(messages, len(pictures), BUDGET)
    embeddings = weights.embed[ids].astype(np.float64)
    if pictures:
        prepared = vlm.parts.viewer.prepare(pictures, BUDGET)
        features = [reference_vision(weights, one.pixel_values[0], BUDGET)[0] for one in prepared]
        embeddings[ids == vlm.parts.prompter.image_token_id] = np.concatenate(features)
    tokens = []
    eos = vlm.artifact.manifest.decoder.eos_token_ids
    while len(tokens) < steps and not (tokens and tokens[-1] in eos):
        tokens.append(int(np.argmax(reference_logits(weights, embeddings))))
        embeddings = np.vstack([embeddings, weights.embed[tokens[-1]]])
    return tokens


def user(text, pictures=0):
    return {
        "role": "user",
        "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": text}],
    }


def test_every_answer_is_that_to_the_whole_conversation(weights, vlm, picture, other):
    chat = vlm.chat()
    pictures_so_far = []
    for question, pictures in [
        ("what?", [picture]),
        ("and a circle?", []),
        ("is it red?", [other]),
        ("why?", []),
    ]:
        pictures_so_far += pictures
        expected = by_hand(weights, vlm, chat, [user(question, len(pictures))], pictures_so_far, 4)
        answer = chat.ask(question, pictures, sampling=Sampling(max_new_tokens=4))
        assert answer.token_ids == expected
        assert answer.visual_tokens == {
            "before": PATCHES * len(pictures_so_far),
            "after": BUDGET * len(pictures_so_far),
        }
        assert len(answer.kept_indices) == len(pictures_so_far)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 4


def test_what_was_computed_is_not_computed_again(vlm, picture, encoded):
    chat = vlm.chat()
    first = chat.ask("what?", [picture], sampling=Sampling(max_new_tokens=4))
    second = chat.ask("and?", sampling=Sampling(max_new_tokens=4))
    assert first.prompt_tokens["cached"] == 0
    assert second.prompt_tokens["cached"] >= first.prompt_tokens["total"]
    assert second.prompt_tokens["total"] > second.prompt_tokens["cached"]
    # Another conversation has a KV cache of its own; features go by content, not by array.
    again = vlm.chat().ask("another thing?", [picture.copy()], sampling=Sampling(max_new_tokens=1))
    assert again.prompt_tokens["cached"] == 0
    assert again.kept_indices == first.kept_indices
    assert len(encoded) == 1
    other_question = chat.ask("what else?", sampling=Sampling(max_new_tokens=1))
    assert other_question.prompt_tokens["cached"] >= second.prompt_tokens["total"]


def test_a_picture_is_encoded_once_even_where_no_features_may_be_kept(
    tmp_path, weights, picture, encoded
):
    from pocketvlm.vision.feature_cache import FeatureLimits

    vlm = VLM.load(
        tmp_path / "a",
        limits=Limits(
            features=FeatureLimits(memory_bytes=0),
            sequences=SequenceLimits(memory_bytes=0, kept=0),
        ),
    )
    chat = vlm.chat()
    chat.ask("what?", [picture], sampling=Sampling(max_new_tokens=2))
    vlm.chat().ask("something else")  # costs the conversation its KV cache
    assert chat.ask("and?", sampling=Sampling(max_new_tokens=2)).prompt_tokens["cached"] == 0
    assert len(encoded) == 1


def test_other_answers_between_change_nothing(vlm, picture, other):
    alone, mixed, rival = vlm.chat(), vlm.chat(), vlm.chat()
    expected = [
        alone.ask(q, [picture] if i == 0 else [], sampling=Sampling(max_new_tokens=5)).token_ids
        for i, q in enumerate("abc")
    ]
    answers = []
    for i, question in enumerate("abc"):
        answers.append(
            mixed.ask(question, [picture] if i == 0 else [], sampling=Sampling(max_new_tokens=5))
        )
        vlm.generate("something", [other], sampling=Sampling(max_new_tokens=3))
        rival.ask("else", [other], sampling=Sampling(max_new_tokens=3))
    assert [answer.token_ids for answer in answers] == expected
    for before, after in itertools.pairwise(answers):  # nothing was computed twice
        assert after.prompt_tokens["cached"] >= before.prompt_tokens["total"]


def test_when_the_context_is_full_the_oldest_turns_go_and_their_pictures_stay(
    weights, vlm, picture
):
    chat = vlm.chat()
    chat.ask("first?", [picture], sampling=Sampling(max_new_tokens=8))
    while chat.dropped_turns == 0:
        answer = chat.ask("and then what else is there?", sampling=Sampling(max_new_tokens=8))
        assert answer.prompt_tokens["total"] + 7 <= CONTEXT
    # three quarters at most are left, so that the next turn need not drop again
    assert answer.prompt_tokens["total"] <= (CONTEXT - 7) * 3 // 4
    assert chat.dropped_turns > 0
    assert len(chat.messages) < 2 * 20
    assert [part["type"] for part in chat.messages[0]["content"]] == ["image", "text"]
    assert "first?" not in str(chat.messages)
    assert answer.visual_tokens["after"] == BUDGET
    # and the next answer is still that to the messages that are left
    expected = by_hand(weights, vlm, chat, [user("so?")], [picture], 3)
    assert chat.ask("so?", sampling=Sampling(max_new_tokens=3)).token_ids == expected


def test_carried_pictures_take_half_of_the_context_at_most(vlm, picture):
    chat = vlm.chat(budget=BUDGET)
    rng = np.random.default_rng(0)
    for _ in range(30):
        new = rng.integers(0, 256, picture.shape, dtype=np.uint8)
        answer = chat.ask("?", [new], sampling=Sampling(max_new_tokens=2))
        carried = sum(part["type"] == "image" for part in chat.messages[0]["content"]) - 1
        assert carried * BUDGET <= CONTEXT // 2
        assert answer.prompt_tokens["total"] < CONTEXT
    assert chat.dropped_turns > 0


def test_a_question_that_does_not_fit_even_alone_is_refused_and_changes_nothing(vlm, picture):
    chat = vlm.chat()
    answer = chat.ask("what?", [picture], sampling=Sampling(max_new_tokens=3))
    before = chat.messages
    with pytest.raises(PocketVLMError, match=f"context of {CONTEXT}"):
        chat.ask("word " * 300)
    with pytest.raises(PocketVLMError, match="context"):
        chat.ask("what?", sampling=Sampling(max_new_tokens=CONTEXT + 2))
    assert chat.messages == before
    assert chat.dropped_turns == 0
    assert (
        chat.ask("and?", sampling=Sampling(max_new_tokens=2)).prompt_tokens["cached"]
        >= answer.prompt_tokens["total"]
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"prompt": "<image>"}, "for 0 pictures"),
        ({"images": "photo.jpg"}, "give a list"),
        ({"images": ["missing.jpg"]}, r"missing\.jpg"),
    ],
)
def test_refusals_come_before_any_work(vlm, arguments, reason):
    chat = vlm.chat()
    with pytest.raises(PocketVLMError, match=reason):
        chat.stream(**{"prompt": "what?", **arguments})
    assert chat.messages == []


def test_a_budget_that_is_not_served_is_refused_at_once(vlm):
    with pytest.raises(PocketVLMError, match="budget 7 is not served"):
        vlm.chat(budget=7)


def test_an_answer_left_early_stays_as_far_as_it_went(vlm, picture):
    chat = vlm.chat()
    stream = chat.stream("what is it?", [picture], sampling=Sampling(max_new_tokens=30))
    text = next(stream) + next(stream)
    stream.close()
    assert chat.messages[-1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": text.strip()}],
    }
    unread = chat.stream("and?", sampling=Sampling(max_new_tokens=30))
    unread.close()
    assert len(chat.messages) == 2


def test_an_answer_asked_to_stop_is_a_whole_one(vlm, picture):
    chat = vlm.chat()
    full = vlm.generate("what is it?", [picture], sampling=Sampling(max_new_tokens=30)).token_ids
    stream = chat.stream("what is it?", [picture], sampling=Sampling(max_new_tokens=30))
    next(stream)
    stream.stop()
    answer = stream.answer
    assert answer.finish_reason == "interrupted"
    assert answer.token_ids == full[: len(answer.token_ids)]
    assert len(answer.token_ids) < len(full)
    assert chat.messages[-1]["content"][0]["text"] == answer.text.strip()


def test_an_answer_that_failed_is_not_part_of_the_conversation(vlm, picture, monkeypatch):
    chat = vlm.chat()
    expected = vlm.generate("something", sampling=Sampling(max_new_tokens=3)).token_ids
    first = chat.stream("what is it?", [picture], sampling=Sampling(max_new_tokens=30))
    next(first)
    with monkeypatch.context() as patch:

        def broken(self, token_id):
            raise EngineError("the decoder graph failed")

        patch.setattr(OnnxSequence, "decode", broken)
        with pytest.raises(PocketVLMError, match="the decoder graph failed"):
            list(first)
    assert chat.messages == []
    assert chat.ask("something", sampling=Sampling(max_new_tokens=3)).token_ids == expected


def test_two_answers_of_one_conversation_at_once_are_both_right(vlm, picture):
    chat = vlm.chat()
    chat.ask("what is it?", [picture], sampling=Sampling(max_new_tokens=4))
    alone = vlm.chat()
    alone.ask("what is it?", [picture], sampling=Sampling(max_new_tokens=4))
    expected = alone.ask("why?", sampling=Sampling(max_new_tokens=20))
    first, second = (
        chat.stream("why?", sampling=Sampling(max_new_tokens=20)),
        chat.stream("how?", sampling=Sampling(max_new_tokens=20)),
    )
    text = next(first)
    list(second)
    assert text + "".join(first) == expected.text
    assert first.answer.token_ids == expected.token_ids
    assert first.answer.prompt_tokens["cached"] > 0 == second.answer.prompt_tokens["cached"]
    # The one that ended first stays, and its cache continues with the conversation.
    assert chat.messages[-2]["content"][0]["text"] == "how?"
    after = chat.ask("so?", sampling=Sampling(max_new_tokens=2))
    assert after.prompt_tokens["cached"] >= second.answer.prompt_tokens["total"]


def test_of_two_streams_begun_alike_the_one_that_ends_first_stays(vlm):
    chat = vlm.chat()
    first, second = (
        chat.stream(text, sampling=Sampling(max_new_tokens=3)) for text in ("what?", "why?")
    )
    expected = first.answer.text
    _ = second.answer
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
    assert "what?" in str(chat.messages[0])
    assert expected.strip() in str(chat.messages[1])
    assert chat.dropped_turns == 0


def test_an_answer_that_ends_after_a_reset_does_not_come_back(vlm):
    chat = vlm.chat()
    chat.ask("what?", sampling=Sampling(max_new_tokens=3))
    stream = chat.stream("why?", sampling=Sampling(max_new_tokens=3))
    chat.reset()
    assert len(stream.answer.token_ids) > 0
    assert (chat.messages, chat.dropped_turns) == ([], 0)


@pytest.mark.parametrize("sampling", [None, {"max_new_tokens": 3}])
def test_settings_of_another_type_are_refused(vlm, sampling):
    with pytest.raises(RequestError, match="Sampling") as refusal:
        vlm.chat().ask("what?", sampling=sampling)
    assert refusal.value.setting == "sampling"


def test_reset_begins_anew(vlm, picture):
    chat = vlm.chat()
    first = chat.ask("what?", [picture], sampling=Sampling(max_new_tokens=4))
    chat.reset()
    assert chat.messages == []
    assert vlm.cache_bytes == 0
    assert (
        chat.ask("what?", [picture], sampling=Sampling(max_new_tokens=4)).token_ids
        == first.token_ids
    )


def test_an_image_token_that_the_model_spells_out_is_no_picture(vlm):
    assert vlm.parts.prompter.reply(" it is <image> red ")["content"] == [
        {"type": "text", "text": "it is  red"}
    ]


def test_a_conversation_that_nobody_holds_any_more_frees_its_cache(vlm):
    chat = vlm.chat()
    chat.ask("what?", sampling=Sampling(max_new_tokens=1))
    assert vlm.cache_bytes > 0
    del chat
    gc.collect()
    assert vlm.cache_bytes == 0
