"""Streams against the tokenizers library: for every kind of decoder, vocabulary and sequence of
ids, what comes out token by token is what all ids give at once."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models

from pocketvlm.errors import ArtifactError
from pocketvlm.text.decoding import text_decoder
from pocketvlm.text.streaming import Detokenizer
from support import tiny_tokenizers

BYTES = [f"<0x{byte:02X}>" for byte in (0x41, 0x20, 0xC3, 0xA9, 0xF0, 0x9F, 0xA6, 0x80, 0xFF)]
# The byte-level characters of a cut "é" and of a crab, words, and what only looks like them.
TOKENS = [
    *("▁", "▁▁", "▁red", "circle", "the", "", " ", "  ", ".", "▁.", " n't", "'s", "é", "\ufffd"),
    *("##ing", "##", "ing</w>", "</w>", "a</w>b", "Ġred", "Ċ", "Ã", "©", "ð", "Ł", "¦", "Ģ", "ÿ"),
    *("<0xé>", "<0x+F>", "<0xff>", "x▁y", "I", "m", *BYTES),
]
SPECIAL, ADDED = "<s>", "<box>"


def tokenizer_with(decoder):
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="."))
    core.add_special_tokens([AddedToken(SPECIAL, special=True, normalized=False)])
    core.add_tokens([AddedToken(ADDED, special=False, normalized=False)])
    core.decoder = decoder
    return core


def llama(*more):
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, *more])


DECODERS = {
    "none": None,
    "byte-level": decoders.ByteLevel(),
    **{f"metaspace {way}": decoders.Metaspace("▁", way) for way in ("first", "always", "never")},
    "wordpiece": decoders.WordPiece("##", True),
    "wordpiece as it is": decoders.WordPiece("##", False),
    "bpe": decoders.BPEDecoder("</w>"),
    "fallback": decoders.ByteFallback(),
    "fallback, metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "gemma": llama(),
    "llama": llama(decoders.Strip(" ", 1, 0)),
    "llama, two spaces": llama(decoders.Fuse(), decoders.Strip(" ", 2, 0)),
    "nested": decoders.Sequence([llama(decoders.Strip(" ", 1, 0))]),
    "strip each": decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Fuse()]),
    "replace by pattern": decoders.Sequence(
        [decoders.Replace(Regex("[▁ ]+"), "_"), decoders.Fuse()]
    ),
    "byte-level, strip": decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]),
}
# What may change any text before, so it comes at its end.
LATE = {
    "replace after all": llama(decoders.Replace("the", "a")),
    "metaspace after all": llama(decoders.Metaspace()),
    "ctc": decoders.CTC(),
}
TOKENIZERS = {name: tokenizer_with(decoder) for name, decoder in (DECODERS | LATE).items()}
SIZE = len(TOKENS) + 2
any_ids = st.lists(st.integers(0, SIZE + 3), max_size=14)  # some beyond the vocabulary


def ids_of(*tokens):
    return [TOKENS.index(token) for token in tokens]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), any_ids)
@example("metaspace always", ids_of("▁", "the", "", "▁red", "▁", "circle", "."))
@example("llama", ids_of("▁", "▁", "<0xC3>", "<0xA9>", "<0xFF>", "the"))
@example("gemma", ids_of("<0xC3>", "<0xA9>", "<0xFF>"))
@example("byte-level", ids_of("ð", "Ł", "ð", "Ł", "¦", "Ģ", "Ã"))
@example("bpe", ids_of("ing</w>", "</w>", "a</w>b"))
def test_any_ids_come_out_as_the_library_decodes_them_at_once(name, ids):
    tokenizer = TOKENIZERS[name]
    detokenizer = Detokenizer(tokenizer)
    streamed = "".join(map(detokenizer.push, ids))
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert expected.startswith(streamed)
    assert streamed + detokenizer.finish() == detokenizer.text == expected


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DECODERS)), any_ids)
def test_the_steps_alone_give_the_text_that_the_library_gives(name, ids):
    """Without the library's own decoding at the end."""
    tokenizer = TOKENIZERS[name]
    steps = text_decoder(tokenizer.decoder)
    tokens = [tokenizer.id_to_token(i) for i in ids if i < SIZE]
    pieces = [steps.push(token) for token in tokens if token != SPECIAL]
    assert "".join(pieces) + steps.finish() == tokenizer.decode(ids, skip_special_tokens=True)


CORES = {
    "pieces": tiny_tokenizers.sentence_pieces(),
    **{name: tiny_tokenizers.byte_level(name) for name in tiny_tokenizers.BYTE_LEVEL},
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(CORES)), st.data())
def test_tokenizers_of_published_kinds_stream_what_they_decode(name, data):
    core = CORES[name]
    vocabulary = core.get_vocab_size()
    text = data.draw(st.text(max_size=20))
    ids = core.encode(text, add_special_tokens=False).ids
    ids += data.draw(st.lists(st.integers(0, vocabulary + 2), max_size=12))
    detokenizer = Detokenizer(core)
    streamed = "".join(map(detokenizer.push, ids)) + detokenizer.finish()
    assert streamed == detokenizer.text == core.decode(ids)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_words_come_at_once(name):
    """Nothing is held back that is certain: a decoder that gives all at the end is not a stream."""
    tokenizer = TOKENIZERS[name]
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(i) for i in ids_of("the", "circle", "the", "circle", "the")]
    later = 1 if name == "bpe" else 0
    assert all(pieces[later:])


def test_a_space_of_its_own_inside_an_answer_is_kept():
    tokenizer = TOKENIZERS["metaspace always"]
    ids = ids_of("the", "▁", "", "▁red", "▁", "circle", ".")
    detokenizer = Detokenizer(tokenizer)
    assert "".join(map(detokenizer.push, ids)) == tokenizer.decode(ids) == "the  red circle."


def test_a_decoder_that_fails_refuses_in_one_line():
    tokenizer = tokenizer_with(decoders.Strip(" ", 1, 1))  # whose library panics at one space
    detokenizer = Detokenizer(tokenizer)
    with pytest.raises(ArtifactError, match="cannot write the answer"):
        detokenizer.push(TOKENS.index(" "))
