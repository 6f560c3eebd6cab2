"""What a prompt continues from: logits as of a sequence that reads all of it, whatever was read,
left and forgotten before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm import Artifact, EngineSettings
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.pool import ConversationCache, SequencePool
from pocketvlm.limits import SequenceLimits
from support.tiny_artifact import give_attention, write_artifact
from support.tiny_graphs import HIDDEN

BEGINNING = np.arange(3, 11, dtype=np.int64)
PICTURES = [
    EmbeddingSegment(
        np.random.default_rng(seed).normal(size=(5 + seed, HIDDEN)).astype(np.float32), f"p{seed}"
    )
    for seed in range(2)
]


@pytest.fixture(scope="module", params=["causal", "pictures", "prompt"])
def decoder(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("sharing") / "a"
    weights = write_artifact(root)
    if request.param != "causal":
        give_attention(root, weights, request.param)
    return open_decoder(Artifact.open(root), settings=EngineSettings(threads=1))


def near(logits, expected):
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def prompt(parts):
    """The template's beginning, then text by its token ids and pictures by their numbers."""
    return [TokenSegment(BEGINNING)] + [
        PICTURES[part] if isinstance(part, int) else TokenSegment(np.array(part, dtype=np.int64))
        for part in parts
    ]


TEXT = st.lists(st.integers(20, 22), min_size=1, max_size=6)
PROMPT = st.tuples(st.lists(st.one_of(TEXT, st.integers(0, 1)), max_size=3), TEXT)
STEP = st.tuples(PROMPT, st.sampled_from([None, None, 0, 1]), st.lists(st.integers(30, 32)))


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, min_size=2, max_size=7), st.integers(1, 4), st.booleans())
def test_logits_are_those_of_a_fresh_sequence(decoder, steps, kept, short):
    limits = SequenceLimits(kept=kept, memory_bytes=6000 if short else 1 << 30)
    pool = SequencePool(decoder, limits, lambda: BEGINNING)
    talks = [ConversationCache(), ConversationCache()]
    for (parts, tail), talk, answer in steps:
        segments = prompt([*parts, tail])
        conversation = None if talk is None else talks[talk]
        cached, fresh = pool.borrow(conversation, segments), decoder.sequence()
        logits, reused = cached.prefill(segments)
        near(logits, fresh.prefill(segments))
        assert 0 <= reused < sum(map(len, segments))
        assert cached.sequence.next_position == fresh.next_position
        for token in answer[:3]:
            near(cached.decode(token), fresh.decode(token))
        pool.keep_beginning(cached)
        pool.give_back(cached, conversation)
        pool.trim()
    pool.close()
    assert pool.cache_bytes == 0


def read(pool, segments, talk=None):
    """Tokens of a prompt that were in a cache."""
    cached = pool.borrow(talk, segments)
    _, reused = cached.prefill(segments)
    pool.keep_beginning(cached)
    pool.give_back(cached, talk)
    pool.trim()
    return reused


def test_a_copy_is_made_where_a_picture_would_go(causal):
    pool = SequencePool(causal, SequenceLimits(kept=2))
    asked = prompt([0, [20, 21]])
    assert read(pool, asked) == 0
    assert read(pool, prompt([1, [20]])) == len(BEGINNING)  # forked, as the first has a picture
    one_more = len(BEGINNING) + len(PICTURES[0])
    assert read(pool, prompt([0, [22]])) == one_more  # and it is still there
    assert read(pool, prompt([0, [22, 23]])) == one_more + 1
    assert read(pool, prompt([1, [21]])) == len(BEGINNING) + len(PICTURES[1])


def test_of_those_that_are_too_many_text_goes_first_while_there_is_much_of_it(causal):
    pool = SequencePool(causal, SequenceLimits(kept=4))
    read(pool, prompt([0, [20]]))
    for token in range(40, 60):
        read(pool, prompt([list(range(token, token + 12))]))
    assert read(pool, prompt([0, [21]])) == len(BEGINNING) + len(PICTURES[0])
    for number in range(4):  # but pictures do not push all text out
        picture = EmbeddingSegment(PICTURES[0].inputs_embeds + number, f"other{number}")
        read(pool, [TokenSegment(BEGINNING), picture, TokenSegment(np.array([20]))])
    assert read(pool, prompt([0, [21]])) < len(BEGINNING) + len(PICTURES[0])


def test_two_answers_at_once_begin_with_what_one_of_them_has(causal):
    pool = SequencePool(causal, SequenceLimits(kept=3))
    asked = prompt([0, [20, 21, 22]])
    first = pool.borrow(None, asked)
    first.prefill(asked)
    second = pool.borrow(None, asked)
    assert second is not first
    _, reused = second.prefill(asked)
    assert reused == sum(map(len, asked)) - 1
    near(first.decode(30), second.decode(30))
    pool.give_back(first, None)
    pool.give_back(second, None)


def test_a_failed_answer_leaves_nothing_that_is_taken_for_its_prompt(causal):
    pool = SequencePool(causal, SequenceLimits(kept=2))
    asked = prompt([0, [20]])
    read(pool, asked)
    cached = pool.borrow(None, asked)
    with pytest.raises(Exception, match="wide"):
        cached.prefill([*asked, EmbeddingSegment(np.zeros((2, HIDDEN + 1), np.float32))])
    pool.give_back(cached, None)
    pool.trim()
    assert read(pool, asked) in (0, len(BEGINNING))


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    root = tmp_path_factory.mktemp("causal") / "a"
    write_artifact(root)
    return open_decoder(Artifact.open(root), settings=EngineSettings(threads=1))


def test_nothing_is_copied_of_what_may_be_freed_meanwhile(causal):
    """An answer of a conversation frees its cache at its end, in any thread and without a lock,
    where the conversation has gone on with another."""
    pool, talk = SequencePool(causal, SequenceLimits(kept=3)), ConversationCache()
    asked = prompt([0, [20, 21, 22]])
    first = pool.borrow(talk, asked)
    first.prefill(asked)
    second = pool.borrow(talk, asked)
    assert second is not first
    assert second.sequence.length == 0
    second.prefill(asked)
    pool.give_back(first, talk)
    pool.give_back(second, talk)
    aside = pool.borrow(None, asked)  # of what waits it is copied
    assert aside.sequence.length > len(BEGINNING)
    assert aside.prefill(asked)[1] == sum(map(len, asked)) - 1
    pool.close()
