"""Knows how what people write is read: text in UTF-8, with or without the mark that some editors
put before it and with any line ends; and paths that begin at somebody's home.

It lies on the ground floor because targets are such text and have such paths; for all else
`pocketvlm.files` passes it on.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path

# UTF-32-LE begins as UTF-16-LE does.
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)

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
