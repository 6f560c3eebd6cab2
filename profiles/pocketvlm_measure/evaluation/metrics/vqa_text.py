"""Knows how the VQA authors make answers comparable: the rules of their evaluation page and of
their script.

Punctuation and articles are removed, number words become digits, missing apostrophes are restored
(visualqa.org/evaluation.html). Where the page and the script differ, the script is followed:
it is what figures in papers were made with.
"""

from __future__ import annotations

import re

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
# Each is corrected where one of its apostrophes is missing. Those that are words without it (its,
# well, were) are not listed.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_RESTORED = {
    whole[: mark.start()] + whole[mark.end() :]: whole
    for whole in _CONTRACTIONS.split()
    for mark in re.finditer("'", whole)
} | {"somebody'd": "somebodyd"}  # the other way round in the script
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The script removes no more: it passes a flag of that value to a parameter that counts.
_MOST_PERIODS = 32


def without_punctuation(text: str) -> str:
    """Remove marks beside a space and turn others into a space; where a comma is between digits,
    remove all. A full stop is removed unless a digit follows it."""
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or in_number else " ")
    return _PERIOD.sub("", cleaned, count=_MOST_PERIODS)


def plain_words(text: str) -> str:
    """Small letters, numbers up to ten as digits, no articles, apostrophes restored, one space
    between words."""
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def on_one_line(text: str) -> str:
    """A space for each line break and tab, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise(text: str) -> str:
    """All steps of the script, in its order."""
    return plain_words(without_punctuation(on_one_line(text)))
