"""What llama.cpp is given at once: never a shorter list of positions than it reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.llama_batches import batches
from pocketvlm.decoders.positions import positions_named
from pocketvlm.decoders.track import Track
from pocketvlm.errors import EngineError
from pocketvlm.layouts import TokenGrid

PLANES = {"contiguous": 1, "mrope": 4}
EXTRAS = ("first", "second")


def text(count):
    return TokenSegment(np.arange(count, dtype=np.int64))


def picture(rows, columns):
    count = rows * columns
    embeds = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    extras = {name: embeds + 100 * number for number, name in enumerate(EXTRAS, start=1)}
    return EmbeddingSegment(
        embeds, grid=TokenGrid(rows, columns), kept=np.arange(count), extras=extras
    )


segment = st.one_of(
    st.integers(0, 9).map(text),
    st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda size: picture(*size)),
)


def fed(segments, name, limit):
    numbers, _ = Track(positions_named(name)).extended(segments)
    return list(batches(segments, numbers, planes=PLANES[name], limit=limit)), numbers


@given(st.lists(segment, max_size=5), st.sampled_from(sorted(PLANES)), st.integers(1, 12))
def test_every_batch_has_positions_for_all_that_it_holds(segments, name, limit):
    made, numbers = fed(segments, name, limit)
    axes = positions_named(name).axes
    expected = np.concatenate([np.zeros((axes, 0), np.int64), *numbers], axis=1)
    at = 0
    for batch in made:
        count = len(batch.values)
        assert 0 < count <= limit
        assert batch.values.flags.c_contiguous
        if name == "contiguous":
            assert batch.pos is None
        else:
            rows = 1 if batch.values.dtype == np.int32 else 4
            assert (batch.pos.dtype, batch.pos.size) == (np.int32, rows * count)
            assert batch.pos.flags.c_contiguous
            planes = batch.pos.reshape(rows, count)
            np.testing.assert_array_equal(planes[:3], expected[: min(rows, 3), at : at + count])
            assert not planes[3:].any()
        at += count
    assert at == sum(map(len, segments))


def test_planes_of_a_picture_in_two_batches():
    made, _ = fed([text(2), picture(2, 3), text(1)], "mrope", 4)
    assert [batch.pos.tolist() for batch in made] == [
        [0, 1],
        [2, 2, 2, 2, 2, 2, 2, 3, 2, 3, 4, 2, 0, 0, 0, 0],
        [2, 2, 3, 3, 3, 4, 0, 0],
        [5],
    ]


def test_neighbours_are_read_at_once_where_positions_allow_it():
    segments = [text(2), text(3), picture(1, 2), picture(2, 2), text(1)]
    for name, sizes in (("contiguous", [5, 6, 1]), ("mrope", [5, 2, 4, 1])):
        assert [len(batch.values) for batch in fed(segments, name, 50)[0]] == sizes


def test_positions_that_llama_cpp_would_count_otherwise_come_with_each_batch():
    segments = [text(2), picture(1, 3), picture(1, 1), text(1)]
    numbers, _ = Track(positions_named("contiguous"), first=1).extended(segments)
    made = list(batches(segments, numbers, planes=1, limit=3, counts=False))
    assert [batch.pos.tolist() for batch in made] == [[1, 2], [3, 4, 5], [6], [7]]


@given(
    st.lists(segment, max_size=5),
    st.sampled_from(sorted(PLANES)),
    st.integers(1, 12),
    st.sampled_from([(), EXTRAS, EXTRAS[::-1]]),
)
def test_further_features_follow_those_of_the_same_token(segments, name, limit, extras):
    numbers, _ = Track(positions_named(name)).extended(segments)
    made = list(batches(segments, numbers, planes=PLANES[name], limit=limit, extras=extras))
    rows = [batch.values for batch in made if batch.values.dtype == np.float32]
    pictures = [each for each in segments if isinstance(each, EmbeddingSegment)]
    assert sum(map(len, rows)) == sum(map(len, pictures))
    for batch in rows:
        assert batch.shape[1] == 2 * (1 + len(extras))
        assert batch.flags.c_contiguous
    if rows:
        expected = [
            np.concatenate([each.inputs_embeds, *(each.extras[name] for name in extras)], axis=1)
            for each in pictures
        ]
        np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(expected))


@given(st.lists(segment, max_size=5), st.integers(25, 40))
def test_a_picture_that_is_seen_both_ways_is_a_batch_of_its_own(segments, limit):
    numbers, _ = Track(positions_named("contiguous"), "pictures").extended(segments)
    made = list(batches(segments, numbers, planes=1, limit=limit, attention="pictures"))
    pictures = [each for each in segments if isinstance(each, EmbeddingSegment) and len(each)]
    whole = [batch for batch in made if not batch.causal]
    assert [batch.values.tolist() for batch in whole] == [
        each.inputs_embeds.tolist() for each in pictures
    ]
    assert all(batch.values.dtype == np.int32 for batch in made if batch.causal)
    assert sum(len(batch.values) for batch in made) == sum(map(len, segments))


def test_a_picture_that_is_seen_both_ways_is_never_divided():
    segments = [text(3), picture(4, 5)]
    numbers, _ = Track(positions_named("contiguous"), "pictures").extended(segments)
    with pytest.raises(EngineError, match="20 tokens of a picture attend to each other"):
        list(batches(segments, numbers, planes=1, limit=19, attention="pictures"))
