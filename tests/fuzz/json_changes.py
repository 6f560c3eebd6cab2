"""Knows how a JSON document is damaged with its structure in mind: other types, absurd numbers and
texts, names that come twice, depth."""

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from fuzz.base import OUTSIDE
from fuzz.byte_changes import damaged

# Stand for what json.dumps does not write.
_RAW = {
    "@digits@": "1" + "0" * 5000,
    "@deep@": "[" * 3000 + "]" * 3000,
    "@deeper@": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "@exponent@": "1e999",
    "@negative@": "-0.0",
    "@half@": '"\\ud800"',
    "@comment@": "1 // one",
}
TEXTS = ("", " ", "a", "\0", "a\nb", "a\r\nb", "\u2028", "\x1b[2J", "\u202e", "naïve 你好 🙂",
"\ud800",
         "a" * 300, "a" * 20_000, "%s%n", "{{ 1 }}", "${HOME}", "auto", "fp32", "int8", "none",
         "null",
         "0", "1", "-1", "1e9", "<image>", "<s>", "__class__", "pickle", "trust_remote_code",
         "Infinity", "NaN", *OUTSIDE)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 1000, 65_536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53,
2**63 - 1,
           2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.5, 1e-300, 1e308, -1e308, float("nan"),
           float("inf"), -float("inf"))  # fmt: skip
_SHAPES = (None, True, False, [], {}, [[]], [None], [{}], {"a": {}}, {"": 1}, [1, "a"])


def odd(random: Random) -> Any:
    """A value that nobody expects."""
    kind = random.randrange(10)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind < 6:
        return random.choice(TEXTS)
    if kind < 8:
        return copy.deepcopy(random.choice(_SHAPES))
    if kind == 8:
        return random.choice(tuple(_RAW))
    return [random.choice(NUMBERS)] * random.choice((2, 5, 5000))


def changed(random: Random, document: Any) -> Any:
    """A copy of a document with one to four changes of its structure."""
    document = copy.deepcopy(document)
    gentle = random.random() < 0.5  # what a check of types alone lets pass
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        places = list(_places(document))
        if not places:
            return odd(random)
        holder, key = random.choice(places)
        (_nudge if gentle else _change)(random, holder, key, places)
    return document


def written(random: Random, document: Any, *, whole: bool = False) -> bytes:
    """A document as a file; sometimes damaged as text too, unless it is to be ``whole``."""
    text = json.dumps(document, ensure_ascii=random.random() < 0.7)
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    if not whole and random.random() < 0.06:
        text = _twice(random, text)
    content = text.encode("utf-8", "surrogatepass")
    if whole or random.random() < 0.88:
        return content
    kind = random.randrange(6)
    if kind == 0:
        return b"\xef\xbb\xbf" + content
    if kind == 1:
        return text.encode("utf-16", "surrogatepass")
    if kind == 2:
        return content[: random.randrange(len(content) + 1)]
    if kind == 3:
        return random.choice(
            (b"", b"null", b"[]", b"1", b'"a"', b"{}", b"[" * 100_000, b"\xff" * 9)
        )
    return damaged(random, content)


def changed_json(random: Random, content: bytes) -> bytes:
    """A JSON file, changed."""
    return written(random, changed(random, json.loads(content)))


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every (list or object, index or name) in a document; of long lists some."""
    places, waiting = [], [document]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            keys: Sequence[Any] = list(holder)
        elif isinstance(holder, list):
            keys = range(min(len(holder), 20))
        else:
            continue
        places += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return places


def _nudge(random: Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    """Put a value of the same type in the place of another: something near it, or one from
    elsewhere in the document."""
    if isinstance(holder, list) and key >= len(holder):
        return
    value = holder[key]
    alike = [
        other[name]
        for other, name in places
        if type(other) is dict and type(other.get(name)) is type(value)
    ]
    if alike and random.random() < 0.35:
        holder[key] = copy.deepcopy(random.choice(alike))
    elif type(value) is int:
        holder[key] = random.choice(
            (value + 1, max(0, value - 1), 1, 2, value * 2, value * 1000, 2**31 - 1, 2**62)
        )
    elif isinstance(value, (dict, list)) and value:
        place = (
            random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        )
        if random.random() < 0.5:
            del value[place]
        elif isinstance(value, list):
            value[place:place] = copy.deepcopy(value[place:]) * random.choice((1, 2, 50))
        else:
            value[random.choice(("other", "fp16", "int8", "7", "image", "a b"))] = copy.deepcopy(
                value[place]
            )
    elif value is None:
        holder[key] = random.choice(("a", 1, [1, 1], {}))
    else:
        holder[key] = _nudged(random, value)


def _change(random: Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    kind = random.randrange(12)
    value = holder[key]
    if kind < 4:
        holder[key] = odd(random)
    elif kind < 6:
        holder[key] = _nudged(random, value)
    elif kind == 6:
        del holder[key]
    elif kind == 7:
        other, name = random.choice(places)
        try:
            holder[key] = copy.deepcopy(other[name])
        except LookupError:
            holder[key] = None
    elif kind == 8:
        holder[key] = random.choice(([value], {"a": value}, [value] * 2, {str(value)[:40]: value}))
    elif kind == 9 and isinstance(holder, dict):
        name = random.choice((*TEXTS, str(key) + "s", str(key).upper()))
        holder[name] = holder.pop(key)
    elif kind == 10 and isinstance(holder, dict):
        holder[random.choice(TEXTS)] = odd(random)
    elif isinstance(value, list) and value:
        holder[key] = random.choice((value[:1], value[::-1], value + value, value * 50, []))
    else:
        holder[key] = _nudged(random, value)


def _nudged(random: Random, value: Any) -> Any:
    """Something near a value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = value + 1, value - 1, -value, value * 2, value // 2, value * 1000, value + 2**32
        return random.choice((*near, str(value)[:40], value + 0.5 if abs(value) < 2**53 else 0.5))
    if isinstance(value, float):
        return random.choice((-value, value * 1e9, value / 1e9, 0.0, float("nan"), round(value, 2)))
    if isinstance(value, str):
        place = random.randrange(len(value) + 1)
        extra = random.choice(("", "\0", "\n", "..", "/", "é", "\ud800", "0", value))
        return value[:place] + extra + value[place + random.randrange(2) :]
    return odd(random)


def _twice(random: Random, text: str) -> str:
    """A name once more, with another value before its own."""
    starts = [place for place in range(len(text)) if text.startswith('": ', place)][:500]
    if not starts:
        return text
    end = random.choice(starts)
    start = text.rfind('"', 0, end)
    if start < 0:
        return text
    name = text[start : end + 3]
    return f"{text[:start]}{name}{json.dumps(random.choice(NUMBERS[:20]))}, {text[start:]}"
