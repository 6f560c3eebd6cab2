"""Knows which tokenizer.json may be read: a few steps of known kinds. None of them lets a text grow
or takes time out of proportion to it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from pocketvlm.errors import PocketVLMError, library_errors
from pocketvlm.text.patterns import PatternError, check_pattern

MAX_BYTES = 64 << 20  # of the file; vocabularies of 256k tokens take about half of it
# Published: 1 million tokens (XLM-V, 900k), 8,000 added ones (Chameleon), 0.6 million merges.
_MAX_TOKENS = 1 << 20
_MAX_MERGES = 1 << 21
_MAX_ADDED = 100_000
_MAX_TOKEN = 4096  # characters
_MAX_PIECE = 64  # of Unigram, which tries every piece at every place; SentencePiece makes 16
_MAX_CHARACTERS = 8 << 20  # of all tokens
_MAX_PIECE_CHARACTERS = 3 << 20  # of Unigram, whose index takes some 300 bytes for each
_MAX_ADDED_CHARACTERS = 2 << 20
_MAX_WORD = 1000  # characters that WordPiece looks at, in quadratic time
_MAX_STEPS = 32  # of each part, steps in steps counted
_MAX_DEPTH = 3
_MAX_GROWTH = 16  # times that all steps of a part make a text longer
_MAX_CONTENT = 64  # characters that a step puts in
_MAX_SPECIAL = 256  # ids that a post-processor adds
_MAX_MAP = 4 << 20  # bytes of a precompiled map of characters
_MAX_MAPPED = 256  # bytes that one character becomes in it; the longest in Unicode has 33


class TokenizerFault(ValueError):
    """A tokenizer.json that is not read; as text, why."""


def read_tokenizer(text: str, refusal: Callable[[str], PocketVLMError]) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json, without its truncation and padding: as in transformers, a
    prompt is never cut nor padded.

    Args:
        text: of the file.
        refusal: makes the error out of why it is not read.

    Raises:
        PocketVLMError: what ``refusal`` makes.
    """
    with library_errors(refusal):
        data = check_tokenizer(text)
        # Left out rather than switched off: what is wrong with them is of no importance.
        if data.get("truncation") is not None or data.get("padding") is not None:
            text = json.dumps({**data, "truncation": None, "padding": None}, ensure_ascii=False)
        return tokenizers.Tokenizer.from_str(text)


def check_tokenizer(text: str) -> dict[str, Any]:
    """What a tokenizer.json says.

    Raises:
        TokenizerFault: it is beyond what this module knows.
        ValueError: no JSON.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise TokenizerFault("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise TokenizerFault("it is not an object")
    _check_model(_part(data, "model"))
    if data.get("added_tokens") is not None:
        _check_added(data["added_tokens"])
    for name, kinds, inner, most in _PARTS:
        if data.get(name) is not None:
            _check_steps(_part(data, name), name, kinds, inner, most)
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Names that come twice would be read here as one thing and in the library as another."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise TokenizerFault(f"it names {twice[:40]!r} twice")
    return made


def _part(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = data.get(name)
    if not isinstance(part, dict):
        raise TokenizerFault(f"its {name} is not an object")
    return part


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type")  # which the oldest files lack
    if kind not in ("BPE", "Unigram", "WordLevel", "WordPiece", None):
        raise TokenizerFault(f"its model is of the type {str(kind)[:40]}")
    vocabulary = model.get("vocab")
    if kind == "Unigram" or (kind is None and isinstance(vocabulary, list)):
        pairs = vocabulary if isinstance(vocabulary, list) else []
        if not pairs or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise TokenizerFault("its vocabulary is not a list of pairs")
        tokens, longest, total = [pair[0] for pair in pairs], _MAX_PIECE, _MAX_PIECE_CHARACTERS
    else:
        if not isinstance(vocabulary, dict):
            raise TokenizerFault("its vocabulary is not an object")
        tokens, longest, total = list(vocabulary), _MAX_TOKEN, _MAX_CHARACTERS
    _check_texts(tokens, "tokens", _MAX_TOKENS, total, longest)
    merges = model.get("merges", [])
    if not isinstance(merges, list) or len(merges) > _MAX_MERGES:
        raise TokenizerFault(f"its merges are not a list of at most {_MAX_MERGES}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        _check_content(model.get(name) or "", name)
    _check_number(model.get("max_input_chars_per_word", 0), "max_input_chars_per_word", _MAX_WORD)


def _check_texts(
    texts: Sequence[Any], name: str, most: int, characters: int, longest: int = _MAX_TOKEN
) -> None:
    if len(texts) > most:
        raise TokenizerFault(f"it has {len(texts)} {name}, at most {most} are read")
    # No loop of Python's: this is done each time a model is loaded.
    if set(map(type, texts)) - {str} or max(map(len, texts), default=0) > longest:
        raise TokenizerFault(f"one of its {name} is not a string of at most {longest} characters")
    total = sum(map(len, texts))
    if total > characters:
        raise TokenizerFault(f"its {name} have {total} characters, at most {characters} are read")


def _check_added(added: Any) -> None:
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise TokenizerFault("its added tokens are not a list of objects")
    contents = [token.get("content") for token in added]
    _check_texts(contents, "added tokens", _MAX_ADDED, _MAX_ADDED_CHARACTERS)


def _check_steps(
    part: Mapping[str, Any],
    name: str,
    kinds: Mapping[str, Callable[[Mapping[str, Any]], float]],
    inner: str,
    most: int,
) -> None:
    """Each step of a known kind, and their growth in all."""
    growth = 1.0
    for count, step in enumerate(_flat(part, name, inner, _MAX_DEPTH), 1):
        kind = step.get("type")
        if not isinstance(kind, str) or kind not in kinds:
            raise TokenizerFault(f"its {name} has a step of the type {str(kind)[:40]}")
        if count > _MAX_STEPS:
            raise TokenizerFault(f"its {name} has more than {_MAX_STEPS} steps")
        try:
            growth *= kinds[kind](step)
        except PatternError as error:
            raise TokenizerFault(f"its {name} may take too long: {error}") from error
        if growth > most:
            raise TokenizerFault(f"its {name} makes texts more than {most} times as long")


def _flat(step: Any, name: str, inner: str, depth: int) -> Iterator[Mapping[str, Any]]:
    if not isinstance(step, dict):
        raise TokenizerFault(f"its {name} has a step that is not an object")
    if step.get("type") != "Sequence":
        yield step
        return
    steps = step.get(inner)
    if not isinstance(steps, list) or depth == 0:
        raise TokenizerFault(f"its {name} has no list of steps, or one too deep")
    for part in steps:
        yield from _flat(part, name, inner, depth - 1)


def _check_content(content: Any, name: str) -> int:
    if not isinstance(content, str) or len(content) > _MAX_CONTENT:
        raise TokenizerFault(f"its {name} is not a string of at most {_MAX_CONTENT} characters")
    return len(content)


def _check_number(number: Any, name: str, most: int, least: int = 0) -> None:
    if not isinstance(number, int) or not least <= number <= most:
        raise TokenizerFault(f"its {name} is {str(number)[:40]}, not {least} to {most}")


def _same(step: Mapping[str, Any]) -> float:
    return 1


def _twice(step: Mapping[str, Any]) -> float:
    """Of steps that write characters with others, at most two for most of them."""
    return 2


def _replace(step: Mapping[str, Any]) -> float:
    content = _check_content(step.get("content"), "replacement")
    pattern = _pattern(step)
    return 1 + content if pattern is None else max(1.0, content / len(pattern))


def _split(step: Mapping[str, Any]) -> float:
    _pattern(step)
    return 1


def _pattern(step: Mapping[str, Any]) -> str | None:
    """The text that is looked for; None for a regular expression, which is checked."""
    pattern = step.get("pattern")
    if not isinstance(pattern, dict) or len(pattern) != 1:
        raise TokenizerFault("one of its patterns is not an object with one entry")
    ((kind, source),) = pattern.items()
    if kind not in ("Regex", "String") or not isinstance(source, str) or not source:
        raise TokenizerFault("one of its patterns is not a string")
    if kind == "String":
        _check_content(source, "pattern")
        return source
    check_pattern(source)
    return None


def _prepend(step: Mapping[str, Any]) -> float:
    _check_content(step.get("prepend"), "prepend")
    return 1


def _strip(step: Mapping[str, Any]) -> float:
    """At the end of a text the library fails where it is shorter."""
    _check_content(step.get("content"), "content")
    _check_number(step.get("start", 0), "start", _MAX_CONTENT)
    _check_number(step.get("stop", 0), "stop", 0)
    return 1


def _fixed_length(step: Mapping[str, Any]) -> float:
    _check_number(step.get("length"), "length", _MAX_TOKEN, least=1)
    return 1


def _precompiled(step: Mapping[str, Any]) -> float:
    """SentencePiece's map of characters: the length of an index, the index, and texts that end in
    NUL."""
    try:
        data = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise TokenizerFault("its map of characters is not base64") from error
    index = int.from_bytes(data[:4], "little")
    if len(data) > _MAX_MAP or (data and (index % 4 or index + 4 > len(data))):
        raise TokenizerFault("its map of characters is too long, or cut")
    if max(map(len, data[4 + index :].split(b"\0")), default=0) > _MAX_MAPPED:
        raise TokenizerFault("its map makes one character a long text")
    return 2


def _template(step: Mapping[str, Any]) -> float:
    """A template adds special tokens to a text, and has it once."""
    special = step.get("special_tokens") or {}
    if not isinstance(special, dict):
        raise TokenizerFault("special tokens of its post_processor are not an object")
    for name, pieces in step.items():
        if name in ("type", "special_tokens"):
            continue
        if not isinstance(pieces, list) or not all(isinstance(piece, dict) for piece in pieces):
            raise TokenizerFault(f"its post_processor has no list of parts for {name[:40]}")
        texts = [str(piece["Sequence"]) for piece in pieces if "Sequence" in piece]
        if len(pieces) > _MAX_SPECIAL or len(texts) > len(set(texts)):
            raise TokenizerFault("its post_processor has a text twice, or too many parts")
        added = sum(_added_ids(piece, special) for piece in pieces if "SpecialToken" in piece)
        if added > _MAX_SPECIAL:
            raise TokenizerFault(f"its post_processor adds more than {_MAX_SPECIAL} tokens")
    return 1


def _added_ids(piece: Mapping[str, Any], special: Mapping[str, Any]) -> int:
    named = piece["SpecialToken"]
    token = special.get(str(named.get("id"))) if isinstance(named, dict) else None
    ids = token.get("ids") if isinstance(token, dict) else None
    if not isinstance(ids, list):
        raise TokenizerFault("its post_processor names a special token that it does not have")
    return len(ids)


_Kinds = Mapping[str, Callable[[Mapping[str, Any]], float]]
_NORMALIZERS: _Kinds = {
    **dict.fromkeys(("BertNormalizer", "Lowercase", "Nmt", "Strip", "StripAccents"), _same),
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "ByteLevel"), _twice),
    "Precompiled": _precompiled,
    "Prepend": _prepend,
    "Replace": _replace,
}
_PRE_TOKENIZERS: _Kinds = {
    **dict.fromkeys(
        ("BertPreTokenizer", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation"), _same
    ),
    **dict.fromkeys(("UnicodeScripts", "Whitespace", "WhitespaceSplit"), _same),
    "ByteLevel": _twice,
    "FixedLength": _fixed_length,
    "Split": _split,
}
_POST_PROCESSORS: _Kinds = {
    **dict.fromkeys(("BertProcessing", "ByteLevel", "RobertaProcessing"), _same),
    "TemplateProcessing": _template,
}
_DECODERS: _Kinds = {
    **dict.fromkeys(("ByteFallback", "ByteLevel", "Fuse", "Metaspace"), _same),
    "BPEDecoder": lambda step: 1 + 0 * _check_content(step.get("suffix", ""), "suffix"),
    "Replace": _replace,
    "Strip": _strip,
    "WordPiece": lambda step: 1 + 0 * _check_content(step.get("prefix", ""), "prefix"),
}
_PARTS = (
    ("normalizer", _NORMALIZERS, "normalizers", _MAX_GROWTH),
    ("pre_tokenizer", _PRE_TOKENIZERS, "pretokenizers", 4),
    ("post_processor", _POST_PROCESSORS, "processors", 1),
    ("decoder", _DECODERS, "decoders", _MAX_GROWTH),
)
