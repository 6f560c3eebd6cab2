"""Knows which regular expressions of a tokenizer take time in proportion to the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_MAX_CHARACTERS = 4096
_MAX_ALTERNATIVES = 64
_MAX_CHOICES = 64  # ways in which the bounded parts of an alternative can match
_ENDLESS = 1 << 30

# Of published tokenizers, where a part after an endless one may fail. The first two fail only
# where an alternative after them takes the same spaces.
_LINE_BREAKS = (r"\s*[\r\n]+", r"\s*[\r\n]")
_PUBLISHED = frozenset(
    {
        r"\s+(?!\S)",
        r"\s+$",
        r"\s++$",
        r"\s{4}(?!\S)",
        r"\s{1,2}(?!\S)",
        r"<sentinel:[0-9]+>",
        r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
    }
)


class PatternError(ValueError):
    """A pattern that may take longer than in proportion to the text; as text, why."""


@dataclass(frozen=True)
class _Part:
    """A part of an alternative: one character's place, a group or a look around, and how often."""

    source: str
    least: int
    most: int
    inner: str | None = None  # of a group

    @property
    def is_endless(self) -> bool:
        return self.most >= _ENDLESS


def check_pattern(pattern: str) -> None:
    """Raise `PatternError` unless the pattern is of a form that never goes back far.

    In each alternative nothing that must match comes after an endless part, and groups are bounded:
    whatever the text, it is read once. Beside these the forms that published tokenizers have.
    """
    if not pattern or len(pattern) > _MAX_CHARACTERS:
        raise PatternError(f"a pattern of {len(pattern)} characters")
    spelt_out = pattern.replace("\r", r"\r").replace("\n", r"\n")
    alternatives = list(_split(spelt_out))
    if len(alternatives) > _MAX_ALTERNATIVES:
        raise PatternError(f"a pattern of {len(alternatives)} alternatives")
    parts = [_parts(alternative) for alternative in alternatives]
    for number, alternative in enumerate(alternatives):
        later = range(number + 1, len(alternatives))
        if alternative in _PUBLISHED:
            continue
        if alternative in _LINE_BREAKS and any(
            alternatives[other].startswith(r"\s+") for other in later
        ):
            continue
        if any(_takes_the_same(parts[number], parts[other]) for other in later):
            continue
        _check_parts(parts[number])


def _takes_the_same(parts: Sequence[_Part], later: Sequence[_Part]) -> bool:
    """Whether a later alternative matches all that ``P X* Y+ ...`` goes over and gives up:
    ``P X+ Y* ...``, as the patterns of GPT-4o have it for words in upper and lower case."""
    at = next((i for i, part in enumerate(parts) if part.is_endless), None)
    if at is None or at + 1 >= len(parts) or len(later) < at + 2:
        return False
    first, second = parts[at], parts[at + 1]
    is_so = (first.least, second.least, second.is_endless) == (0, 1, True)
    same = list(later[:at]) == list(parts[:at])
    own = [_Part(first.source, 1, _ENDLESS), _Part(second.source, 0, _ENDLESS)]
    if not (is_so and same and list(later[at : at + 2]) == own and first.inner is None):
        return False
    _check_parts([*parts[:at], own[0], *parts[at + 2 :]])
    _check_parts(later)
    return True


def _check_parts(parts: Sequence[_Part], *, in_group: bool = False) -> None:
    choices, is_past_endless = 1, False
    for part in parts:
        if part.inner is not None:
            if part.most > 1:
                raise PatternError(f"a repeated group ({part.source[:40]})")
            for alternative in _split(part.inner):
                _check_parts(_parts(alternative), in_group=True)
        if is_past_endless and part.least > 0:
            raise PatternError(f"{part.source[:40]} after an endless part")
        if part.is_endless:
            if in_group:
                raise PatternError(f"an endless part in a group ({part.source[:40]})")
            is_past_endless = True
        else:
            choices *= part.most - part.least + 1
    if choices > _MAX_CHOICES:
        raise PatternError("too many ways to match")


def _split(pattern: str) -> Iterator[str]:
    """The alternatives of a pattern, groups left whole."""
    start, at, depth = 0, 0, 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif character == "[":
            at = _class_end(pattern, at) - 1
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "|" and depth == 0:
            yield pattern[start:at]
            start = at + 1
        at += 1
    yield pattern[start:]


def _parts(alternative: str) -> list[_Part]:
    parts, at = [], 0
    while at < len(alternative):
        end, inner = _atom_end(alternative, at)
        source = alternative[at:end]
        least, most, at = _repeats(alternative, end)
        parts.append(_Part(source, least, most, inner))
    return parts


def _atom_end(text: str, at: int) -> tuple[int, str | None]:
    """Where the atom at ``at`` ends, and what is in it where it is a group."""
    character = text[at]
    if character == "[":
        return _class_end(text, at), None
    if character == "(":
        return _group(text, at)
    if character == "\\":
        return _escape_end(text, at), None
    if character in "*+?{":
        raise PatternError(f"a repeat of nothing ({text[at : at + 20]})")
    return at + 1, None


def _escape_end(text: str, at: int) -> int:
    kind = text[at + 1 : at + 2]
    if kind in ("p", "P", "x", "u", "o") and text[at + 2 : at + 3] == "{":
        return _until(text, "}", at)
    if (kind and kind in "pPdDwWsSbBhHNRnrtfv") or kind in ("x", "u") or not kind.isalnum():
        length = {"x": 4, "u": 6}.get(kind, 2)
        if not kind:
            raise PatternError("a pattern that ends in a backslash")
        return at + length
    raise PatternError(f"a reference or rare escape (\\{kind})")


def _group(text: str, at: int) -> tuple[int, str]:
    depth, end = 0, at
    while end < len(text):
        if text[end] == "\\":
            end += 1
        elif text[end] == "[":
            end = _class_end(text, end) - 1
        elif text[end] == "(":
            depth += 1
        elif text[end] == ")":
            depth -= 1
            if depth == 0:
                break
        end += 1
    else:
        raise PatternError("a group without an end")
    inner = text[at + 1 : end]
    if inner.startswith("?"):
        for opening in ("?:", "?i:", "?=", "?!", "?>", "?<=", "?<!"):
            if inner.startswith(opening):
                return end + 1, inner.removeprefix(opening)
        raise PatternError(f"a rare kind of group (({inner[:10]})")
    if inner.startswith("*"):
        raise PatternError("a call in a pattern")
    return end + 1, inner


def _class_end(text: str, at: int) -> int:
    """Past the end of a class of characters; classes may stand in it."""
    depth, end = 0, at
    while end < len(text):
        if text[end] == "\\":
            end += 1
        elif text[end] == "[":
            depth += 1
            end += text.startswith("^", end + 1)
            end += text.startswith("]", end + 1)  # the first is a character
        elif text[end] == "]":
            depth -= 1
            if depth == 0:
                return end + 1
        end += 1
    raise PatternError("a class without an end")


def _repeats(text: str, at: int) -> tuple[int, int, int]:
    """How often at least and at most the atom before ``at`` may come, and where that ends."""
    least, most, end = 1, 1, at
    if text.startswith(("*", "+", "?"), at):
        least, most = {"*": (0, _ENDLESS), "+": (1, _ENDLESS), "?": (0, 1)}[text[at]]
        end = at + 1
    elif text.startswith("{", at):
        end = _until(text, "}", at)
        low, comma, high = text[at + 1 : end - 1].partition(",")
        if not (low or high) or not (low + high).isdecimal() or len(low + high) > 6:
            raise PatternError(f"a repeat {text[at:end][:20]}")
        least = int(low or 0)
        most = (int(high) if high else _ENDLESS) if comma else least
    if end > at and text.startswith(("?", "+"), end):  # lazy, possessive
        end += 1
    if end > at and text.startswith(("*", "+", "?", "{"), end):
        raise PatternError("a repeat of a repeat")
    if most < least:
        raise PatternError("a repeat that cannot be")
    return least, most, end


def _until(text: str, character: str, at: int) -> int:
    end = text.find(character, at)
    if end < 0:
        raise PatternError(f"no {character}")
    return end + 1
