"""Knows how the decoder of a tokenizer turns tokens into text one at a time: each of the library's
steps, and what of its output later tokens may still change."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tokenizers import Regex, Tokenizer, decoders

from pocketvlm import upstream

_UNKNOWN = "\ufffd"  # in place of bytes that are not a character
_FUSING = ("ByteLevel", "Fuse")  # steps that make one text of all tokens


class _Step(Protocol):
    """Takes tokens one by one, and gives out what no later token can change."""

    def push(self, token: str) -> list[str]: ...

    def finish(self) -> list[str]: ...


class TextDecoder:
    """The decoder of a tokenizer, token by token: ``push`` gives the text that is certain.

    All its texts and that of `finish` add up to what the library makes of all tokens at once.
    """

    def __init__(self, steps: Sequence[_Step]) -> None:
        self._steps = steps

    def push(self, token: str) -> str:
        """The text that is certain after this token; may be empty."""
        return self._run(self._steps, [token])

    def finish(self) -> str:
        """What was held back for the tokens to come, as none comes."""
        rest = ""
        for number, step in enumerate(self._steps):
            rest += self._run(self._steps[number + 1 :], step.finish())
        return rest

    def _run(self, steps: Sequence[_Step], tokens: list[str]) -> str:
        for step in steps:
            tokens = [out for token in tokens for out in step.push(token)]
        return "".join(tokens)


def text_decoder(decoder: decoders.Decoder | None) -> TextDecoder | None:
    """The decoder of a tokenizer as one that works token by token.

    None if one of its steps may change any earlier text, or is not of the kinds that language
    models have: such a text is complete only at its end.
    """
    if decoder is None:
        return TextDecoder([_Spaced()])
    steps: list[_Step] = []
    is_fused = False  # all tokens are one from here on, and come in parts
    for step in _flat(upstream.decoder_settings(decoder)):
        kind = step["type"]
        make = (_OF_ONE_TEXT if is_fused else _OF_TOKENS).get(kind)
        if make is None or (is_fused and step.get("stop")):
            return None
        steps.append(make(step))
        is_fused = is_fused or kind in _FUSING
    return TextDecoder(steps)


def token_bytes(tokenizer: Tokenizer) -> list[bytes] | None:
    """What each token writes into a text, by id: empty for special tokens, which are not text, and
    for ids without a token. In front of a text a space of it may be left out.

    None where what a token writes depends on the tokens beside it.
    """
    decoder = tokenizer.decoder
    if decoder is None or text_decoder(decoder) is None:
        return None
    writers, is_fused = [], False
    for step in _flat(upstream.decoder_settings(decoder)):
        kind = step["type"]
        if kind not in _OF_BYTES or (kind == "Strip" and not is_fused):
            return None
        writers.append(_OF_BYTES[kind](step))
        is_fused = is_fused or kind in _FUSING
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    vocabulary: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    written = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        if token not in special:
            written[number] = _written(token, writers)
    return written


def _written(token: str, writers: Sequence[_Writer]) -> bytes:
    for write in writers:
        part = write(token)
        if isinstance(part, bytes):  # the steps that follow are of characters
            return part
        token = part
    return token.encode()


def _flat(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    return [inner for part in step["decoders"] for inner in _flat(part)]


class _Spaced:
    """Without a decoder the library puts a space between tokens."""

    def __init__(self) -> None:
        self._separator = ""

    def push(self, token: str) -> list[str]:
        separator, self._separator = self._separator, " "
        return [separator + token]

    def finish(self) -> list[str]:
        return []


class _Alone:
    """A step that looks at each token by itself."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder

    def push(self, token: str) -> list[str]:
        return [self._decoder.decode([token])]

    def finish(self) -> list[str]:
        return []


class _FirstApart(_Alone):
    """A step that treats the first token apart: Metaspace, WordPiece."""

    _begun = False

    def push(self, token: str) -> list[str]:
        before = [""] if self._begun else []
        self._begun = True
        return [self._decoder.decode([*before, token])]


class _LastApart:
    """A step that treats the last token apart, so one is held back: BPEDecoder."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._held: list[str] = []

    def push(self, token: str) -> list[str]:
        held, self._held = self._held, [token]
        return [self._decoder.decode([*held, ""])] if held else []

    def finish(self) -> list[str]:
        held, self._held = self._held, []
        return [self._decoder.decode(held)] if held else []


class _ByteRuns:
    """ByteFallback: bytes in a row are text if all of them together are, so a row is held back
    until its end."""

    def __init__(self, decoder: decoders.Decoder) -> None:
        self._decoder = decoder
        self._held: list[str] = []

    def push(self, token: str) -> list[str]:
        if self._decoder.decode([token]) != token:
            self._held.append(token)
            return []
        return [*self.finish(), token]

    def finish(self) -> list[str]:
        held, self._held = self._held, []
        if not held:
            return []
        text: str = self._decoder.decode(held)
        return list(text) if text == _UNKNOWN * len(held) else [text]


class _ByteLevel:
    """ByteLevel: characters represent bytes, and a character may end in a later token."""

    def __init__(self) -> None:
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> list[str]:
        return [self._characters.decode(_byte_level(token))]

    def finish(self) -> list[str]:
        return [self._characters.decode(b"", final=True)]


class _Whole:
    """Fuse: all tokens are one text, which comes in parts."""

    def push(self, token: str) -> list[str]:
        return [token]

    def finish(self) -> list[str]:
        return []


class _LeftStrip:
    """Strip at the beginning of one text that comes in parts."""

    def __init__(self, content: str, most: int) -> None:
        self._content = content
        self._left = most

    def push(self, token: str) -> list[str]:
        at = 0
        while self._left and at < len(token):
            if token[at] == self._content:
                self._left -= 1
                at += 1
            else:
                self._left = 0
        return [token[at:]]

    def finish(self) -> list[str]:
        return []


def _byte_characters() -> dict[str, int]:
    """The characters of byte-level tokens: printable bytes of Latin-1 represent themselves, the
    others follow from U+0100 on, as GPT-2 has it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + number): byte for number, byte in enumerate(others)
    }


_BYTES = _byte_characters()


def _byte_level(token: str) -> bytes:
    """The bytes that a token of this kind represents."""
    if all(character in _BYTES for character in token):
        return bytes(map(_BYTES.__getitem__, token))
    return token.encode()


def _byte_fallback(token: str) -> bytes | str:
    """The byte of a token that is one; another as it is."""
    return bytes([int(token[3:5], 16)]) if _BYTE_TOKEN.fullmatch(token) else token


_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


def _pattern(step: Mapping[str, Any]) -> Any:
    ((kind, text),) = step["pattern"].items()
    return text if kind == "String" else Regex(text)


_Make = Callable[[Mapping[str, Any]], _Step]
_OF_TOKENS: Mapping[str, _Make] = {
    "BPEDecoder": lambda step: _LastApart(decoders.BPEDecoder(step["suffix"])),
    "ByteFallback": lambda step: _ByteRuns(decoders.ByteFallback()),
    "ByteLevel": lambda step: _ByteLevel(),
    "Fuse": lambda step: _Whole(),
    "Metaspace": lambda step: _FirstApart(
        decoders.Metaspace(step["replacement"], step["prepend_scheme"])
    ),
    "Replace": lambda step: _Alone(decoders.Replace(_pattern(step), step["content"])),
    "Strip": lambda step: _Alone(decoders.Strip(step["content"], step["start"], step["stop"])),
    "WordPiece": lambda step: _FirstApart(
        decoders.WordPiece(step["prefix"], step.get("cleanup", True))
    ),
}
_OF_ONE_TEXT: Mapping[str, _Make] = {
    "Fuse": lambda step: _Whole(),
    "Strip": lambda step: _LeftStrip(step["content"], step["start"]),
}

# What a single token becomes, bytes once they are certain; by the steps that look at no other, or
# at a space in front of the first alone.
_Writer = Callable[[str], bytes | str]


def _each(decoder: decoders.Decoder) -> _Writer:
    return lambda token: str(decoder.decode([token]))


_OF_BYTES: Mapping[str, Callable[[Mapping[str, Any]], _Writer]] = {
    "ByteFallback": lambda step: _byte_fallback,
    "ByteLevel": lambda step: _byte_level,
    "Fuse": lambda step: lambda token: token,
    "Metaspace": lambda step: lambda token: token.replace(step["replacement"], " "),
    "Replace": lambda step: _each(decoders.Replace(_pattern(step), step["content"])),
    "Strip": lambda step: lambda token: token,
}
