"""Knows which vocabularies in GGUF files llama.cpp survives: it ends the process on a token that is
there twice.

llama.cpp reads a token as a text of C, up to the first NUL, and calls empty ones by their place.
"""

from __future__ import annotations

from typing import Final

from pocketvlm.decoders.gguf_file import FLOAT32, INT32, STRING, Array, GgufFile

TOKENS: Final = "tokenizer.ggml.tokens"
MERGES: Final = "tokenizer.ggml.merges"
_MODEL = "tokenizer.ggml.model"
_TOKENIZERS = ("gpt2", "llama")  # byte-level BPE, SentencePiece
# Lists of a vocabulary, with the type of their items; those of _PER_TOKEN have one item a token.
_PER_TOKEN = {
    TOKENS: STRING,
    "tokenizer.ggml.scores": FLOAT32,
    "tokenizer.ggml.token_type": INT32,
}
_LISTS = _PER_TOKEN | {MERGES: STRING}


def check_vocabulary(file: GgufFile) -> None:
    """Raise `ArtifactError` where a file's vocabulary, which has been found to be there, is not one
    that exports write."""
    if file.settings.get(_MODEL, (0, b""))[1] not in [name.encode() for name in _TOKENIZERS]:
        file.refuse(f"its tokenizer is not one of {', '.join(_TOKENIZERS)}")
    arrays = {name: value for name, (_, value) in file.settings.items() if isinstance(value, Array)}
    for name, array in arrays.items():
        if name.startswith("tokenizer.") and array.kind != _LISTS.get(name):
            file.refuse(f"{name} is an array of another type than exports write")
    for name in _LISTS:
        if name in file.settings and name not in arrays:
            file.refuse(f"{name} is not a list")
    tokens = arrays[TOKENS].items
    for name in _PER_TOKEN:
        if name in arrays and arrays[name].length != len(tokens):
            file.refuse(f"{name} does not have an item for each of the {len(tokens)} tokens")
    if len({_read(token, place) for place, token in enumerate(tokens)}) != len(tokens):
        file.refuse("a token is in its vocabulary twice")
    if MERGES in arrays and not all(map(_text, arrays[MERGES].items)):
        file.refuse("a merge is empty")


def _text(token: bytes) -> bytes:
    return token.partition(b"\0")[0]


def _read(token: bytes, place: int) -> bytes:
    """The token at this place as llama.cpp has it."""
    return _text(token) or b"[EMPTY_%d]" % place
