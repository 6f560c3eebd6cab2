"""Text pieces: their concatenation is the whole text, and no piece holds half a character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from pocketvlm.text.streaming import Detokenizer, Stream
from support.tiny_artifact import byte_tokenizer

TOKENIZER = byte_tokenizer()


def pieces_of(tokenizer, ids):
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    return [*pieces, detokenizer.finish()], detokenizer.text


@settings(max_examples=300)
@given(st.text(max_size=30))
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
