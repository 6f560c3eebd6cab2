"""Knows what may be written for people: words of artifacts, checkpoints, files and models do not
steer a terminal.

Everything that a command writes goes through this module. Lines for people lose their control
characters wherever they go. An answer loses them on a terminal only: into a file or a pipe it is
written as the model gave it, as ``ls`` does with names. JSON escapes them.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

import click

_LINE_PARTS = "\n\t"
# Formatting characters that letters and emoji are written with: joiners, and left-to-right marks.
_OF_LETTERS = "\u200c\u200d\u200e\u200f"
# Control and formatting characters, halves of characters, line and paragraph separators.
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """``text`` as one line without control and formatting characters: an artifact's own words must
    not steer the terminal."""
    return "".join(character for character in text if not _steers(character))


def printable_lines(text: str) -> str:
    """`printable` for text of several lines; line breaks and tabs stay."""
    return "".join(
        character for character in text if character in _LINE_PARTS or not _steers(character)
    )


def echo(text: str = "", *, err: bool = False) -> None:
    """Write lines for people, to standard output or standard error."""
    click.echo(printable_lines(text), err=err)


def echo_json(data: Any) -> None:
    """Write one line of JSON to standard output; characters that steer a terminal are escaped."""
    text = json.dumps(data, ensure_ascii=False)
    click.echo(
        "".join(_escaped(character) if _steers(character) else character for character in text)
    )


def print_pieces(pieces: Iterable[str]) -> None:
    """Print a text as it comes, without the space that it begins with, as models have learnt to
    write; on a terminal without what steers it."""
    to_terminal = sys.stdout.isatty()
    begun = False
    for piece in pieces:
        text = printable_lines(piece) if to_terminal else piece
        text = text if begun else text.lstrip()
        begun = begun or bool(text)
        # Not a word of colour: that keeps click from taking parts of the text for colours.
        click.echo(text, nl=False, color=True)
    click.echo()


def replace_unknown_characters() -> None:
    """Print ``?`` for what the encoding of standard output lacks, as consoles on Windows do,
    instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def begin_log() -> None:
    """Write warnings and errors of this process to standard error from now on, without what steers
    a terminal: what failed may quote a stranger's request."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def _steers(character: str) -> bool:
    if character.isascii():
        return not character.isprintable()
    return unicodedata.category(character) in _STEERING and character not in _OF_LETTERS


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
