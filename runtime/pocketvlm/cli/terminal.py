"""Knows what may go to a terminal: text without control characters, in an encoding that may not
have them all."""

import io
import sys
from collections.abc import Iterable

import click


def printable(text: str) -> str:
    """``text`` without control and formatting characters: an artifact's own words must not steer
    the terminal."""
    return "".join(character for character in text if character.isprintable())


def print_pieces(pieces: Iterable[str]) -> None:
    """Print a text as it comes, without the space that it begins with, as models have learnt to
    write."""
    begun = False
    for piece in pieces:
        text = piece if begun else piece.lstrip()
        begun = begun or bool(text)
        click.echo(text, nl=False)
    click.echo()


def replace_unknown_characters() -> None:
    """Print ``?`` for what the encoding of standard output lacks, as consoles on Windows do,
    instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
