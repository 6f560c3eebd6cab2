"""Knows how what people write is read: text in UTF-8, with or without the mark that some editors
put before it and with any line ends; JSON that is not too deep; and paths that begin at somebody's
home.

It lies on the ground floor because targets are such text and have such paths; for all else
`pocketvlm.files` passes it on.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# UTF-32-LE begins as UTF-16-LE does.
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)

_DEEPEST = 64  # objects and lists within each other; ours and checkpoints' have fewer than 10
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"
_LONGEST_LINE, _LAST = 1500, 300  # characters of one for people, and of its end


def without_mark(content: bytes) -> bytes:
    """Bytes of a text, or of its beginning, without the byte order mark of UTF-8.

    Raises:
        ValueError: they are UTF-16 or UTF-32, by their mark or by a zero beside the first letter.
    """
    wide = content.startswith(_WIDE) or (len(content) > 1 and content[:2].count(0) == 1)
    if wide:
        raise ValueError("it is UTF-16 or UTF-32: save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8)


def decode_text(content: bytes) -> str:
    """The text of a whole file, lines ending in ``\\n``; raises ValueError if it is not UTF-8."""
    text = without_mark(content).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(content: str | bytes, *, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """The value that JSON of a stranger states.

    Python and the libraries that read such a value go down into it by recursion, which fails at
    some hundred levels, somewhere in the middle of their work.

    Args:
        content: the JSON.
        parse_constant: as of `json.loads`.

    Raises:
        ValueError: it is no JSON, or nested more than 64 levels deep.
    """
    try:
        value = json.loads(content, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, (dict, list))]:
        if (depth := depth + 1) > _DEEPEST:
            raise ValueError(_TOO_DEEP)
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return value


def one_line(text: str) -> str:
    """``text`` as one line that can be written anywhere: line breaks are spaces, halves of
    characters are escaped, and the middle of a long one is left out. What strangers wrote comes
    into lines for people."""
    joined = " ".join(text.splitlines())
    if len(joined) > _LONGEST_LINE:
        joined = f"{joined[: _LONGEST_LINE - _LAST]} ... {joined[-_LAST:]}"
    return joined.encode("utf-8", "backslashreplace").decode("utf-8")


def user_path(given: str | os.PathLike[str]) -> Path:
    """A path as a person wrote it, ``~`` and ``~name`` expanded in a text; a `Path` is taken as it
    is.

    Where ``name`` is nobody, or nobody has a home, it stays as it is, as a shell leaves it.
    """
    if isinstance(given, str):
        given = os.path.expanduser(given)  # noqa: PTH111 - Path.expanduser raises RuntimeError
    return Path(given)
