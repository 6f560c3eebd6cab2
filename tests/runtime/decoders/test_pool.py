"""Which conversations lose their caches when memory runs short, on real sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm import Artifact, EngineSettings, PocketVLMError
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import TokenSegment
from pocketvlm.decoders.pool import ConversationCache, SequenceLimits, SequencePool
from support.tiny_artifact import write_artifact
from support.tiny_graphs import HIDDEN, LAYERS

TOKEN = 2 * LAYERS * HIDDEN * 4  # bytes of a token in the cache: keys and values, float32


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pool") / "a"
    write_artifact(root)
    return open_decoder(Artifact.open(root), settings=EngineSettings(threads=1))


def ids(count):
    return [TokenSegment(np.arange(count, dtype=np.int64))]


def answer(pool, conversation, tokens):
    """One answer of a conversation, whose cache then holds so many tokens."""
    cached = pool.borrow(conversation)
    cached.prefill(ids(tokens))
    pool.trim()
    pool.give_back(cached, conversation)
    pool.trim()


def held(conversations):
    """Tokens in the cache of each."""
    return [one.sequence.sequence.length if one.sequence else 0 for one in conversations]


def test_those_unused_for_longest_go_first_and_no_more_than_need_be(decoder):
    pool = SequencePool(decoder, SequenceLimits(memory_bytes=25 * TOKEN))
    first, second, third = talks = [ConversationCache() for _ in range(3)]
    answer(pool, first, 10)
    answer(pool, second, 10)
    assert (held(talks), pool.cache_bytes) == ([10, 10, 0], 20 * TOKEN)
    answer(pool, first, 12)
    answer(pool, third, 10)
    assert held(talks) == [12, 0, 10]
    answer(pool, second, 3)
    assert held(talks) == [12, 3, 10]
    answer(pool, third, 25)
    assert held(talks) == [0, 0, 25]


def test_what_is_being_answered_stays_whatever_it_takes(decoder):
    pool = SequencePool(decoder, SequenceLimits(memory_bytes=0))
    talks = [ConversationCache() for _ in range(3)]
    borrowed = [pool.borrow(one) for one in [*talks, None]]
    for cached in borrowed:
        cached.prefill(ids(10))
        pool.trim()
    assert pool.cache_bytes == 40 * TOKEN
    for cached, one in zip(borrowed, [*talks, None], strict=True):
        pool.give_back(cached, one)
    assert pool.cache_bytes == 30 * TOKEN  # that of no conversation has ended with its answer
    pool.trim()
    assert held(talks) == [0, 0, 10]


def test_two_answers_of_one_conversation_have_a_sequence_each(decoder):
    pool, talk = SequencePool(decoder), ConversationCache()
    first, second = pool.borrow(talk), pool.borrow(talk)
    assert first is not second
    first.prefill(ids(5))
    second.prefill(ids(7))
    pool.give_back(first, talk)
    assert pool.cache_bytes == 7 * TOKEN
    pool.give_back(second, talk)
    assert pool.borrow(talk) is second
    assert second.prefill(ids(9))[1] == 7


def test_a_conversation_forgotten_during_its_answer_frees_its_cache_afterwards(decoder):
    pool, talk = SequencePool(decoder), ConversationCache()
    cached = pool.borrow(talk)
    cached.prefill(ids(5))
    pool.forget(talk)
    assert pool.cache_bytes == 5 * TOKEN
    cached.decode(1)
    pool.give_back(cached, talk)
    assert pool.cache_bytes == 0
    answer(pool, talk, 4)
    pool.forget(talk)
    assert pool.cache_bytes == 0


def test_a_closed_pool_lends_nothing_and_keeps_nothing(decoder):
    pool, idle, busy = SequencePool(decoder), ConversationCache(), ConversationCache()
    answer(pool, idle, 5)
    cached = pool.borrow(busy)
    cached.prefill(ids(3))
    pool.close()
    assert pool.cache_bytes == 3 * TOKEN
    cached.decode(1)
    pool.give_back(cached, busy)
    assert pool.cache_bytes == 0
    for talk in (idle, busy, None):
        with pytest.raises(PocketVLMError, match="closed"):
            pool.borrow(talk)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(0, 60),
)
def test_the_bound_holds_but_for_the_conversation_answered_last(decoder, answers, tokens):
    pool = SequencePool(decoder, SequenceLimits(memory_bytes=tokens * TOKEN))
    talks = [ConversationCache() for _ in range(4)]
    for number, length in answers:
        answer(pool, talks[number], length)
        lengths = held(talks)
        assert lengths[number] == length
        assert sum(lengths) <= max(tokens, length)
        assert pool.cache_bytes == sum(lengths) * TOKEN
    del talks
    assert pool.cache_bytes == 0
