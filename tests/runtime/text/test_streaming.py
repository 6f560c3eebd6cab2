"""Text pieces: their concatenation is the whole text up to the first stop text, and no piece holds
half a character."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from pocketvlm.text.streaming import Detokenizer, StopTexts, Stream
from support.tiny_artifact import byte_tokenizer

TOKENIZER = byte_tokenizer()


def pieces_of(tokenizer, ids):
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    return [*pieces, detokenizer.finish()], detokenizer.text


@settings(max_examples=300)
@given(st.text(max_size=30).filter(lambda text: "<" not in text))  # else it may be a special token
def test_whole_texts_come_out_whole(text):
    pieces, whole = pieces_of(TOKENIZER, TOKENIZER.encode(text, add_special_tokens=False).ids)
    assert "".join(pieces) == whole == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300)
@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=30))
def test_any_tokens_come_out_as_decoded_at_once(ids):
    pieces, whole = pieces_of(TOKENIZER, ids)
    assert "".join(pieces) == whole == TOKENIZER.decode(ids)


def test_a_character_of_many_tokens_is_held_back_until_it_is_whole():
    ids = TOKENIZER.encode("🦀", add_special_tokens=False).ids
    assert len(ids) == 3
    pieces, _ = pieces_of(TOKENIZER, ids)
    assert pieces == ["", "", "🦀", ""]


def test_spaces_of_a_sentencepiece_style_tokenizer_survive():
    words = ["▁a", "▁red", "▁square", "s", "<0xC3>", "<0xA9>"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    pieces, whole = pieces_of(tokenizer, range(6))
    assert "".join(pieces) == whole == "a red squaresé"
    assert pieces[:4] == ["a", " red", " square", "s"]


def cut_by_characters(text, stops):
    """Read character by character; the first that completes a stop text ends it."""
    for end in range(len(text) + 1):
        complete = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(complete)]
    return None


few = st.text("ab\n", max_size=12)
stop_texts = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@settings(max_examples=500)
@given(st.lists(few, max_size=8), stop_texts)
def test_any_pieces_come_out_as_their_text_up_to_the_first_stop_text(pieces, stops):
    filter_ = StopTexts(stops)
    given_out = ""
    for read in range(len(pieces)):
        given_out += filter_.push(pieces[read])
        text = "".join(pieces[: read + 1])
        expected = cut_by_characters(text, stops)
        assert filter_.stopped == (expected is not None)
        if expected is not None:
            assert given_out == expected
            continue
        # Held back is what could become a stop text with what follows, and no more.
        held = text.removeprefix(given_out)
        assert given_out + held == text
        begins = [stop for stop in stops if held and stop.startswith(held) and stop != held]
        assert bool(begins) == bool(held)
    whole = "".join(pieces)
    expected = cut_by_characters(whole, stops)
    assert given_out + filter_.finish() == (whole if expected is None else expected)
    assert filter_.cut(whole) == (whole if expected is None else expected)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=30),
    st.data(),
)
def test_any_tokens_end_at_the_first_stop_text(ids, data):
    whole = TOKENIZER.decode(ids)
    inside = st.tuples(st.integers(0, len(whole)), st.integers(1, 4)).map(
        lambda at: whole[at[0] : at[0] + at[1]]
    )
    stops = data.draw(st.lists(inside | st.sampled_from(["a", " t", "\n"]), max_size=2))
    stops = [stop for stop in stops if stop]
    detokenizer = Detokenizer(TOKENIZER, stops)
    streamed = ""
    for token_id in ids:
        assert not detokenizer.stopped
        streamed += detokenizer.push(token_id)
        if detokenizer.stopped:
            break
    expected = cut_by_characters(whole, stops)
    streamed += detokenizer.finish()
    assert streamed == detokenizer.text == (whole if expected is None else expected)
    assert detokenizer.stopped == (expected is not None)


@pytest.mark.parametrize("sizes", itertools.product([1, 2, 3], repeat=4))
def test_any_split_of_one_text_comes_out_alike(sizes):
    text, stops = "no. Yes\n\nUser: and?", ("\nUser:", "Users")
    ends = [0, *itertools.accumulate(sizes), len(text)]
    filter_ = StopTexts(stops)
    pieces = [filter_.push(text[start:end]) for start, end in itertools.pairwise(ends)]
    assert "".join(pieces) == "no. Yes\n"
    assert filter_.stopped


def test_of_stop_texts_the_one_that_is_complete_first_ends_the_answer():
    assert StopTexts(["abcd", "bc"]).cut("xabcd") == "xa"
    assert StopTexts(["ND", "END"]).cut("xEND") == "x"
    stop = StopTexts(["abcd", "bc"])
    assert [stop.push(character) for character in "xabcd"] == ["x", "", "", "a", ""]


def test_without_stop_texts_nothing_is_held_back():
    stop = StopTexts()
    assert [stop.push(piece) for piece in ("a", "", "b")] == ["a", "", "b"]
    assert stop.finish() == ""
    assert not stop.stopped


def test_a_stream_returns_its_answer_at_the_end():
    def pieces():
        yield "a"
        yield "b"
        return "answer"

    stream = Stream(pieces())
    assert next(stream) == "a"
    assert stream.answer == "answer"
    assert list(stream) == []
    assert stream.answer == "answer"


def test_a_closed_stream_has_no_answer():
    def pieces():
        yield "a"
        return "answer"

    stream = Stream(pieces())
    next(stream)
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        _ = stream.answer
