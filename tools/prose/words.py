"""Knows the word list: the table in CONTRIBUTING.md that is headed ``instead of``.

A cell may hold several expressions, set apart by semicolons; the words in brackets are notes. "X"
is any noun.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prose.passages import Passage

_HEAD = "| instead of | write |\n"
_COMPARED = "more|less|longer|faster|slower|smaller|larger|better|different|other's"
_NOUN = rf"(?!(?:{_COMPARED})\b)[a-z][\w'-]*"
_THERE = r"(?<!\b[Tt]here )"  # "there is no picture" is as it should be


@dataclass(frozen=True)
class Word:
    """An expression that is not used here, and what is written instead."""

    expression: re.Pattern[str]
    instead: str


def read_words(contributing: Path) -> list[Word]:
    """Return the word list; ValueError where the page has none."""
    _, head, rest = contributing.read_text(encoding="utf-8").partition(_HEAD)
    rows = [row.strip("| ").split(" | ") for row in rest.partition("\n\n")[0].splitlines()[1:]]
    if not head or not rows:
        raise ValueError(f"{contributing} has no table headed '{_HEAD.strip()}'")
    return [Word(_expression(part), instead) for cell, instead in rows for part in cell.split(";")]


def _expression(text: str) -> re.Pattern[str]:
    words = " ".join(re.sub(r"\(.*?\)", "", text).split())
    first = f"[{words[0].upper()}{words[0].lower()}]"  # "None" is another word than "none"
    if words.endswith(" X"):
        return re.compile(rf"{_THERE}\b{first}{re.escape(words[1:-1])}{_NOUN}")
    return re.compile(rf"\b{first}{re.escape(words[1:])}\b")


def misused(passage: Passage, words: list[Word]) -> Iterator[tuple[str, str]]:
    """Yield each listed expression in a passage with what is written instead."""
    for word in words:
        if match := word.expression.search(passage.text):
            yield match[0], word.instead
