"""What of a prompt is computed again, against a sequence that only writes down what it is given."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.prefix import CachedSequence, after, common_length, joined, run_ends
from pocketvlm.errors import RequestError
from pocketvlm.layouts import TokenGrid


class Recorder:
    """A sequence whose cache is the list of what it was fed; one that cannot be cut begins anew."""

    def __init__(self, cuttable=True):
        self.cache = []
        self.fed = []
        self.cuttable = cuttable
        self.fails = False

    @property
    def length(self):
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

    def close(self):
        self.reset()


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
def test_the_cache_always_holds_the_prompt_and_no_more_is_fed_than_differs(exchanges, cuttable):
    recorder = Recorder(cuttable)
    sequence = CachedSequence(recorder)
    for prompted, decoded in exchanges:
        before = recorder.cache
        _, cached = sequence.prefill(prompted)
        assert recorder.cache == flat(prompted)
        assert recorder.fed == flat(prompted)[cached:]
        assert cached < len(flat(prompted))
        assert before[:cached] == flat(prompted)[:cached]
        for token in decoded:
            sequence.decode(token)


def test_a_conversation_feeds_only_what_is_new():
    recorder = Recorder()
    sequence = CachedSequence(recorder)
    question = [text(1, 2), picture(0), text(3, 4)]
    assert sequence.prefill(question)[1] == 0
    for token in (7, 8):
        sequence.decode(token)
    _, cached = sequence.prefill([text(1, 2), picture(0), text(3, 4, 7, 8, 9, 10)])
    assert (cached, recorder.fed) == (9, [9, 10])
    _, cached = sequence.prefill(
        [text(1, 2), picture(0), text(3, 5)]
    )  # another question about the same picture
    assert (cached, recorder.fed) == (6, [5])
    _, cached = sequence.prefill(
        [text(1, 2), picture(1), text(3, 5)]
    )  # the same question about another picture
    assert (cached, len(recorder.fed)) == (2, 5)
    _, cached = sequence.prefill(
        [text(1, 2), picture(1), text(3, 5)]
    )  # nothing new: the last logits are asked for
    assert (cached, recorder.fed) == (6, [5])


def test_pictures_without_a_key_or_of_another_size_are_not_taken_for_the_same():
    assert common_length([picture(0)], [picture(0)]) == 3
    assert common_length([picture(0, key=False)], [picture(0, key=False)]) == 0
    assert common_length([picture(0)], [picture(0, size=2)]) == 0
    assert common_length([text(1)], [picture(0)]) == 0


def test_pictures_of_other_rows_or_other_kept_tokens_are_not_taken_for_the_same():
    def pruned(grid, kept):
        return dataclasses.replace(picture(0), grid=TokenGrid(*grid), kept=np.array(kept))

    one = pruned((2, 6), [0, 1, 5])
    assert common_length([one], [pruned((2, 6), [0, 1, 5])]) == 3
    assert common_length([one], [pruned((6, 2), [0, 1, 5])]) == 0
    assert common_length([one], [pruned((2, 6), [0, 1, 6])]) == 0
    assert common_length([one], [picture(0)]) == 0


def test_a_part_of_a_picture_has_its_extras_and_no_place_in_a_grid():
    """Positions that follow from a grid refuse it, where they would begin it anew."""
    extras = {"deepstack_0": np.arange(6, dtype=np.float32).reshape(3, 2)}
    whole = dataclasses.replace(
        picture(0), grid=TokenGrid(2, 6), kept=np.array([0, 1, 5]), extras=extras
    )
    (part,) = after([whole], 2)
    np.testing.assert_array_equal(part.inputs_embeds, whole.inputs_embeds[2:])
    np.testing.assert_array_equal(part.extras["deepstack_0"], [[4, 5]])
    assert (part.key, part.grid, part.kept) == (None, None, None)


def test_an_interrupted_prefill_leaves_nothing_believed():
    recorder = Recorder()
    sequence = CachedSequence(recorder)
    sequence.prefill([text(1, 2, 3)])
    recorder.fails = True
    with pytest.raises(KeyboardInterrupt):
        sequence.prefill([text(1, 2, 4, 5)])
    recorder.fails = False
    _, cached = sequence.prefill([text(1, 2, 3)])
    assert (cached, recorder.cache) == (0, [1, 2, 3])


def test_reset_forgets():
    recorder = Recorder()
    sequence = CachedSequence(recorder)
    sequence.prefill([text(1, 2, 3)])
    sequence.reset()
    assert recorder.cache == []
    assert sequence.prefill([text(1, 2, 3)])[1] == 0


@given(prompt, st.integers(0, 12))
def test_after_leaves_out_the_first_positions(segments, position):
    assert flat(after(segments, position)) == flat(segments)[position:]
    assert flat(joined(segments)) == flat(segments)


BEGINNING = np.full(16, 7)


class Divided(Recorder):
    """One that also writes down what each run was, of the tokens that it holds."""

    def __init__(self):
        super().__init__()
        self.timings_ms = {"embed": 1.0, "prefill": 2.0}
        self.runs = []

    def prefill(self, segments):
        before = len(self.cache)
        logits = super().prefill(segments)
        self.runs.append((before, len(self.cache)))
        return logits

    def keep(self, length):
        super().keep(length)
        self.runs = [run for run in self.runs if run[1] <= length]

    def reach(self, length):
        return min(length, len(self.cache))


def test_runs_end_behind_the_beginning_each_picture_and_long_text():
    first, part = picture(0), picture(1)
    rest = dataclasses.replace(picture(2), continues=True)
    opened = [7] * 16
    assert run_ends([text(*opened, *range(600))], BEGINNING) == [16, 272, 528, 616]
    assert run_ends([text(*opened[1:])], BEGINNING) == [15]
    assert run_ends([text(*opened), first, text(1, 2)], BEGINNING) == [16, 19, 21]
    assert run_ends([text(*opened, 1)], BEGINNING[1:]) == [17]  # too little to be read apart
    # The parts of one picture, and the text between them, are one run.
    assert run_ends([text(7, 8), part, text(1), rest, text(2)], BEGINNING) == [9, 10]
    assert run_ends([first], BEGINNING) == [3]
    assert run_ends([text(*range(256))], BEGINNING[:0]) == [256]


# As templates do it, what asks for an answer, 8, is in no question, and no answer, 9, either.
question = st.tuples(st.sampled_from([0, 15, 16, 17]), prompt).map(
    lambda drawn: [text(*[1] * drawn[0]), *drawn[1], text(8)]
)


@given(st.lists(st.tuples(question, st.integers(0, 3), st.booleans()), max_size=4), question)
def test_a_question_is_read_in_the_same_runs_whatever_came_before(exchanges, last):
    division = functools.partial(run_ends, beginning=np.array([1] * 16))
    recorder, talk = Divided(), []
    sequence = CachedSequence(recorder, division)
    for asked, answered, goes_on in exchanges:
        talk = [*(talk if goes_on else ()), *asked]
        sequence.prefill(talk)
        for _ in range(answered):
            sequence.decode(9)
        talk.append(text(*[9] * answered))
    _, cached = sequence.prefill(last)
    assert recorder.cache == flat(last)
    alone = Divided()
    CachedSequence(alone, division).prefill(last)
    assert recorder.runs == alone.runs
    assert cached in (0, *(end for _, end in alone.runs[:-1]))


# Texts that are longer than a run, pictures that go on, and prompts that end anywhere.
any_segment = st.one_of(
    segment,
    st.integers(250, 520).map(lambda length: text(*[0] * length)),
    st.integers(0, 1).map(lambda number: dataclasses.replace(picture(number), continues=True)),
)
any_prompt = st.tuples(
    st.sampled_from([0, 15, 16, 17]), st.lists(any_segment, min_size=1, max_size=4)
).map(lambda drawn: [text(*[1] * drawn[0]), *drawn[1], text(2)])


class Forking(Divided):
    """One that may be copied."""

    def fork(self, length):
        made = Forking()
        made.cache, made.runs = list(self.cache), list(self.runs)
        made.keep(length)
        return made


@given(
    st.lists(st.tuples(any_prompt, st.integers(0, 2), st.sampled_from(["again", "on", "fork"]))),
    any_prompt,
    st.sampled_from(["again", "on", "fork"]),
)
@settings(max_examples=300, deadline=None)
def test_a_prompt_alone_decides_in_which_runs_it_is_read(exchanges, asked, way):
    """Whatever the cache holds. Only behind an answer that was decoded may it be another's."""
    division = functools.partial(run_ends, beginning=np.array([1] * 16))
    sequence, talk, answers = CachedSequence(Forking(), division), [], []
    for prompted, answered, how in [*exchanges, (asked, 0, way)]:
        talk = [*talk, *prompted] if how == "on" else prompted
        if how == "fork":
            made = CachedSequence(Forking(), division)
            if shared := sequence.shared(joined(talk)):
                made.fork_from(sequence, shared)
            sequence = made
        _, cached = sequence.prefill(talk)
        alone = Forking()
        CachedSequence(alone, division).prefill(talk)
        runs, cold = sequence.sequence.runs, alone.runs
        behind = [len(each) for each in answers if flat(talk)[: len(each)] == each]
        start = max((each for each in behind if each <= cached), default=0)
        assert [run for run in runs if run[0] >= start] == [
            (max(begin, start), end) for begin, end in cold if end > start
        ]
        for _ in range(answered):
            sequence.decode(9)
        talk = [*talk, text(*[9] * answered)]
        if answered:
            answers.append(flat(talk))


@pytest.mark.parametrize("division", [None, functools.partial(run_ends, beginning=BEGINNING)])
def test_a_prompt_of_nothing_is_the_sequences_to_refuse(division):
    class Refusing(Divided):
        def prefill(self, segments):
            raise RequestError("nothing to prefill")

    with pytest.raises(RequestError, match="nothing to prefill"):
        CachedSequence(Refusing(), division).prefill([])


def test_time_is_that_of_all_runs():
    recorder = Divided()
    CachedSequence(recorder, lambda prompt: [1, 2, 4]).prefill([text(1, 2, 3, 4)])
    assert recorder.timings_ms == {"embed": 3.0, "prefill": 6.0}
    assert recorder.runs == [(0, 1), (1, 2), (2, 4)]
