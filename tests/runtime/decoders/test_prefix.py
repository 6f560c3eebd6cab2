"""What of a prompt is computed again, against a decoder that only writes down what it is given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.decoders import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.prefix import CachedSequence, after, common_length, joined


class Recorder:
    """A decoder whose cache is the list of what it was fed; one that cannot be cut begins anew."""

    def __init__(self, cuttable=True):
        self.cache = []
        self.fed = []
        self.cuttable = cuttable
        self.fails = False

    @property
    def position(self):
        return len(self.cache)

    def prefill(self, segments):
        self.fed = flat(segments)
        if self.fails:
            self.cache += self.fed[:1]
            raise KeyboardInterrupt
        self.cache += self.fed
        return np.zeros(4, np.float32)

    def decode(self, token):
        self.cache.append(token)
        return np.zeros(4, np.float32)

    def keep(self, length):
        if length < len(self.cache):
            self.cache = self.cache[: length if self.cuttable else 0]

    def reset(self):
        self.cache = []


def flat(segments):
    """One item a position: a token id, or a picture's row."""
    return [
        item
        for segment in segments
        for item in (
            segment.ids.tolist()
            if isinstance(segment, TokenSegment)
            else segment.inputs_embeds[:, 0].tolist()
        )
    ]


def text(*ids):
    return TokenSegment(np.array(ids, np.int64))


def picture(number, size=3, key=True):
    rows = np.full((size, 2), number + 0.5, np.float32) + np.arange(size)[:, None] / 10
    return EmbeddingSegment(rows, f"{number}" if key else None)


segment = st.one_of(
    st.lists(st.integers(0, 2), max_size=4).map(lambda ids: text(*ids)),
    st.integers(0, 1).map(picture),
    st.integers(0, 1).map(lambda number: picture(number, key=False)),
)
prompt = st.lists(segment, min_size=1, max_size=5).filter(
    lambda segments: sum(map(len, segments)) > 0
)


@given(
    st.lists(st.tuples(prompt, st.lists(st.integers(0, 2), max_size=3)), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_cache_always_holds_the_prompt_and_no_more_is_fed_than_differs(turns, cuttable):
    decoder = Recorder(cuttable)
    sequence = CachedSequence(decoder)
    for wanted, said in turns:
        before = decoder.cache
        _, known = sequence.prefill(wanted)
        assert decoder.cache == flat(wanted)
        assert decoder.fed == flat(wanted)[known:]
        assert known < len(flat(wanted))
        assert before[:known] == flat(wanted)[:known]
        for token in said:
            sequence.decode(token)


def test_a_conversation_feeds_only_what_is_new():
    decoder = Recorder()
    sequence = CachedSequence(decoder)
    question = [text(1, 2), picture(0), text(3, 4)]
    assert sequence.prefill(question)[1] == 0
    for token in (7, 8):
        sequence.decode(token)
    _, known = sequence.prefill([text(1, 2), picture(0), text(3, 4, 7, 8, 9, 10)])
    assert (known, decoder.fed) == (9, [9, 10])
    _, known = sequence.prefill(
        [text(1, 2), picture(0), text(3, 5)]
    )  # another question about the same picture
    assert (known, decoder.fed) == (6, [5])
    _, known = sequence.prefill(
        [text(1, 2), picture(1), text(3, 5)]
    )  # the same question about another picture
    assert (known, len(decoder.fed)) == (2, 5)
    _, known = sequence.prefill(
        [text(1, 2), picture(1), text(3, 5)]
    )  # nothing new: the last logits are asked for
    assert (known, decoder.fed) == (6, [5])


def test_pictures_without_a_key_or_of_another_size_are_not_taken_for_the_same():
    assert common_length([picture(0)], [picture(0)]) == 3
    assert common_length([picture(0, key=False)], [picture(0, key=False)]) == 0
    assert common_length([picture(0)], [picture(0, size=2)]) == 0
    assert common_length([text(1)], [picture(0)]) == 0


def test_an_interrupted_prefill_leaves_nothing_believed():
    decoder = Recorder()
    sequence = CachedSequence(decoder)
    sequence.prefill([text(1, 2, 3)])
    decoder.fails = True
    with pytest.raises(KeyboardInterrupt):
        sequence.prefill([text(1, 2, 4, 5)])
    decoder.fails = False
    _, known = sequence.prefill([text(1, 2, 3)])
    assert (known, decoder.cache) == (0, [1, 2, 3])


def test_reset_forgets():
    decoder = Recorder()
    sequence = CachedSequence(decoder)
    sequence.prefill([text(1, 2, 3)])
    sequence.reset()
    assert decoder.cache == []
    assert sequence.prefill([text(1, 2, 3)])[1] == 0


@given(prompt, st.integers(0, 12))
def test_after_leaves_out_the_first_positions(segments, position):
    assert flat(after(segments, position)) == flat(segments)[position:]
    assert flat(joined(segments)) == flat(segments)
