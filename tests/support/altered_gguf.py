"""Knows how to take a GGUF file apart and write it again with other names, texts, types and
places."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

_FORMS = dict(zip([0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12], "BbHhIif?Qqd", strict=True))
_TEXT, _LIST = 8, 9
TOKENS, MERGES = b"tokenizer.ggml.tokens", b"tokenizer.ggml.merges"


@dataclass
class Parts:
    """A file: [name, type, value] of each setting, [name, sizes, type, offset] of each tensor, and
    the tensors' bytes. Lists are (type of an item, items)."""

    settings: list[list[Any]]
    tensors: list[list[Any]]
    data: bytes

    def setting(self, name: bytes) -> list[Any]:
        return next(setting for setting in self.settings if setting[0] == name)


def parts(content: bytes) -> Parts:
    at = 8

    def number(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", content, at)
        at += struct.calcsize(f"<{form}")
        return value

    def text() -> bytes:
        nonlocal at
        size = number("Q")
        at += size
        return content[at - size : at]

    def value(kind: int) -> Any:
        if kind == _TEXT:
            return text()
        if kind != _LIST:
            return number(_FORMS[kind])
        items, length = number("I"), number("Q")
        return items, [value(items) for _ in range(length)]

    tensors, settings = number("Q"), number("Q")
    read = [[text(), kind := number("I"), value(kind)] for _ in range(settings)]
    places = [
        [text(), [number("Q") for _ in range(number("I"))], number("I"), number("Q")]
        for _ in range(tensors)
    ]
    return Parts(read, places, content[-(-at // 32) * 32 :])


def joined(file: Parts) -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    def packed(kind: int, value: Any) -> bytes:
        if kind == _TEXT:
            return text(value)
        if kind != _LIST:
            return struct.pack(f"<{_FORMS[kind]}", value)
        items, values = value
        head = struct.pack("<IQ", items, len(values))
        return head + b"".join(packed(items, item) for item in values)

    head = b"GGUF" + struct.pack("<IQQ", 3, len(file.tensors), len(file.settings))
    for name, kind, value in file.settings:
        head += text(name) + struct.pack("<I", kind) + packed(kind, value)
    for name, sizes, kind, offset in file.tensors:
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return head + bytes(-len(head) % 32) + file.data


_TEXTS = [b"", b"\0", b"a\0b", b"\xff\xfe", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"<0x", b"<0xZZ>",
          b" ", b"a b", b" a", b"a ", b"a b c", b"</s>", b"A" * 5000, "Ā".encode()]  # fmt: skip


def with_other_texts(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with some of its names, tokens and merges exchanged, or ended early by a NUL."""
    file = parts(content)

    def text() -> bytes:
        return _TEXTS[rng.integers(len(_TEXTS))]

    for _ in range(rng.integers(1, 5)):
        kind = rng.integers(4)
        if kind == 0:
            named = (file.settings, file.tensors)[rng.integers(2)]
            entry = named[rng.integers(len(named))]
            at = rng.integers(len(entry[0]) + 1)
            entry[0] = entry[0][:at] + b"\0" + entry[0][at:]
        elif kind == 1:
            setting = list(file.settings[rng.integers(len(file.settings))])
            setting[0] += b"\0"
            file.settings.insert(int(rng.integers(len(file.settings))), setting)
        elif kind == 2:
            tokens = file.setting(TOKENS)[2][1] if _has(file, TOKENS) else [b""]
            place = rng.integers(len(tokens))
            tokens[place] = text() if rng.integers(2) else tokens[place] + text()
        elif _has(file, MERGES):
            file.setting(MERGES)[2] = (_TEXT, [text() for _ in range(rng.integers(5))])
    return joined(file)


def _has(file: Parts, name: bytes) -> bool:
    return any(setting[0] == name for setting in file.settings)
