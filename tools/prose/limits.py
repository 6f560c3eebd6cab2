"""Knows how long sentences may be, in words, and how many of a file's or a package's may be
longer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sentencex import segment

from prose.passages import Passage

LONG = 25


@dataclass(frozen=True)
class Limit:
    """The share of sentences that may be longer than LONG, and the length that none may exceed."""

    share: float
    longest: int


def sentences(passages: Iterable[Passage]) -> Iterator[tuple[Passage, str, int]]:
    """Yield every sentence with its number of words: what has a letter or a digit in it."""
    for passage in passages:
        if passage.sentences:
            text = passage.text.replace("'", "")  # an apostrophe would begin a quotation
            for sentence in segment("en", text):
                yield passage, sentence.strip(), len(re.findall(r"\S*\w\S*", sentence))
