"""Positions against vectors of transformers and its own `get_rope_index`, and where a sequence may
be cut."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.artifact.specs import POSITION_AXES
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.gguf_header import ARCHITECTURES
from pocketvlm.decoders.positions import POSITIONS, positions_named
from pocketvlm.decoders.track import Track, joined_planes
from pocketvlm.errors import ArtifactError
from pocketvlm.layouts import TokenGrid

pytest.importorskip("torch", reason="transformers' own models number the prompts")

from support.tiny_qwen import DATA, END, IMAGE, START, tiny_qwen

VECTORS = json.loads((DATA / "mrope_positions.json").read_text())


def text(*ids):
    return TokenSegment(np.array(ids, np.int64))


def picture(rows, columns, kept=None):
    kept = np.arange(rows * columns) if kept is None else np.array(kept)
    embeds = np.zeros((len(kept), 4), np.float32)
    return EmbeddingSegment(embeds, grid=TokenGrid(rows, columns), kept=kept)


def numbered(segments, name="mrope"):
    """(positions (axes, n), track) of segments from the beginning."""
    numbers, track = Track(positions_named(name)).extended(segments)
    return np.concatenate(numbers, axis=1), track


def vector_segments(vector):
    """A vector's prompt: its text, and its pictures where their spans begin."""
    segments, read, kept_tokens = [], 0, 0
    for (start, size), (gh, gw), kept in zip(
        vector["spans"], vector["grids"], vector["kept"], strict=True
    ):
        before = start - kept_tokens
        segments += [text(*vector["text_ids"][read:before]), picture(gh // 2, gw // 2, kept)]
        read, kept_tokens = before, kept_tokens + size
    return [*segments, text(*vector["text_ids"][read:])]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['family']}-{len(v['grids'])}")
def test_vectors_of_transformers(vector):
    planes, track = numbered(vector_segments(vector))
    np.testing.assert_array_equal(planes, vector["positions_of_what_is_left"])
    assert track.end == (vector["tokens_left"], vector["next_position"])


grids = st.tuples(st.integers(1, 9), st.integers(1, 9))
texts = st.lists(st.integers(3, 200), min_size=1, max_size=6)


@st.composite
def prompts(draw):
    """Texts with pictures between them, some of whose tokens were dropped."""
    segments = [text(*draw(texts))]
    for rows, columns in draw(st.lists(grids, max_size=3)):
        numbers = st.lists(st.integers(0, rows * columns - 1), min_size=1, unique=True)
        segments += [picture(rows, columns, sorted(draw(numbers))), text(*draw(texts))]
    return segments


@pytest.fixture(scope="module")
def qwen():
    return tiny_qwen("qwen2_5_vl")


@given(st.lists(grids, min_size=1, max_size=3), st.data())
def test_unpruned_pictures_equal_get_rope_index(qwen, sizes, data):
    ids, segments = [], []
    for rows, columns in sizes:
        before = [*data.draw(texts), START]
        ids += [*before, *[IMAGE] * (rows * columns), END]
        segments += [text(*before), picture(rows, columns), text(END)]
    expected = qwen.positions(ids, [TokenGrid(*size) for size in sizes])
    planes, track = numbered(segments)
    np.testing.assert_array_equal(planes, expected.numpy())
    assert track.end == (len(ids), int(expected.max()) + 1)


@given(prompts(), st.data())
def test_dropping_tokens_moves_no_other(segments, data):
    whole, at = [], 0
    kept = []
    for segment in segments:
        if isinstance(segment, EmbeddingSegment):
            whole.append(picture(segment.grid.rows, segment.grid.columns))
            kept += (at + segment.kept).tolist()
        else:
            whole.append(segment)
            kept += range(at, at + len(segment))
        at += len(whole[-1])
    expected, unpruned = numbered(whole)
    planes, track = numbered(segments)
    np.testing.assert_array_equal(planes, expected[:, kept])
    assert track.end.position == unpruned.end.position


@given(prompts(), st.sampled_from(sorted(POSITIONS)), st.data())
def test_any_split_into_prefills_gives_the_same_positions(segments, name, data):
    expected, whole = numbered(segments, name)
    parts = []
    for segment in segments:
        if isinstance(segment, TokenSegment):
            cut = data.draw(st.integers(0, len(segment)))
            parts += [TokenSegment(segment.ids[:cut]), TokenSegment(segment.ids[cut:])]
        else:
            parts.append(segment)
    track, planes = Track(positions_named(name)), []
    for part in parts:
        numbers, track = track.extended([part])
        planes += numbers
    np.testing.assert_array_equal(np.concatenate(planes, axis=1), expected)
    assert track == whole


@given(prompts(), st.sampled_from(sorted(POSITIONS)), st.data())
def test_a_cut_goes_back_to_what_a_shorter_prompt_would_be(segments, name, data):
    planes, whole = numbered(segments, name)
    length = data.draw(st.integers(0, planes.shape[1]))
    kept = whole.cut(length)
    assert kept.end.length <= length
    ends = list(itertools.accumulate(map(len, segments), initial=0))
    for segment, start, end in zip(segments, ends, ends[1:], strict=False):
        if start < length < end:  # inside this one
            whole_pictures = name == "mrope" and isinstance(segment, EmbeddingSegment)
            assert kept.end.length == (start if whole_pictures else length)
    # What is read again gets the positions that it had.
    rest, at = [], 0
    for segment in segments:
        if at >= kept.end.length:
            rest.append(segment)
        elif isinstance(segment, TokenSegment) and at + len(segment) > kept.end.length:
            rest.append(TokenSegment(segment.ids[kept.end.length - at :]))
        elif at + len(segment) > kept.end.length:
            part = slice(kept.end.length - at, None)
            rest.append(EmbeddingSegment(segment.inputs_embeds[part]))
        at += len(segment)
    numbers, again = kept.extended(rest)
    read = np.concatenate([planes[:, : kept.end.length], *numbers], axis=1)
    np.testing.assert_array_equal(read, planes)
    assert again == whole


def test_a_cut_in_text_behind_a_picture_keeps_the_pictures_room():
    _, track = numbered([text(1, 2), picture(3, 8, [0, 9]), text(3, 4, 5)])
    assert track.end == (7, 2 + 8 + 3)
    assert track.cut(6).end == (6, 12)
    assert track.cut(4).end == (4, 10)
    assert track.cut(3).end == track.cut(2).end == (2, 2)
    assert track.cut(1).end == (1, 1)
    assert track.cut(0).end == (0, 0)


def test_several_turns_go_on_where_the_last_one_ended():
    track = Track(positions_named("mrope"))
    turns = [[text(1, 2), picture(4, 2, [7]), text(3)], [text(9)] * 5, [picture(1, 6), text(4)]]
    ends = []
    for turn in turns:
        _, track = track.extended(turn)
        ends.append(tuple(track.end))
    assert ends == [(4, 7), (9, 12), (16, 19)]
    assert len(track._stretches) == 5  # an answer's tokens are one


def test_shapes_of_position_ids():
    for name, shape in (("contiguous", (1, 5)), ("mrope", (3, 1, 5))):
        numbers, track = Track(positions_named(name)).extended([text(1, 2), picture(1, 3)])
        ids = joined_planes(numbers, track.positions.axes)
        assert (ids.shape, ids.dtype) == (shape, np.int64)


def test_the_registry_and_the_format_agree():
    assert {name: each.axes for name, each in POSITIONS.items()} == POSITION_AXES
    assert set(ARCHITECTURES.values()) <= set(POSITIONS)
    with pytest.raises(ArtifactError, match="'spiral' are unknown to this runtime, which has cont"):
        positions_named("spiral")


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (EmbeddingSegment(np.zeros((2, 4), np.float32)), "2 tokens comes without its grid"),
        (picture(2, 3, [0, 6]), "2x3 are 2: 0, 6: expected 2 different ones of 0 to 5, ascending"),
        (picture(2, 3, [-1, 2]), "are 2: -1, 2: expected"),
        (picture(2, 3, [2, 1]), "ascending"),
        (picture(2, 3, [1, 1]), "different"),
        (
            EmbeddingSegment(
                np.zeros((3, 4), np.float32), grid=TokenGrid(2, 3), kept=np.array([0, 1])
            ),
            "are 2: 0, 1: expected 3 different ones",
        ),
    ],
)
def test_pictures_that_do_not_say_where_their_tokens_are_refused(segment, message):
    with pytest.raises(ArtifactError, match=message) as refusal:
        numbered([text(1), segment])
    assert refusal.value.advice
    assert refusal.value.expected
    assert "\n" not in str(refusal.value)
    numbered([text(1), EmbeddingSegment(segment.inputs_embeds)], "contiguous")


@given(st.integers(0, 5), st.lists(st.integers(0, 6), max_size=4), st.integers(0, 24))
def test_tokens_count_on_from_the_first_position(first, counts, length):
    segments = [text(*range(count)) for count in counts]
    numbers, track = Track(positions_named("contiguous"), first=first).extended(segments)
    total = sum(counts)
    assert [number for each in numbers for number in each[0]] == [*range(first, first + total)]
    assert track.end == (total, first + total)
    kept = min(length, total)
    assert track.cut(length).end == (kept, first + kept)
