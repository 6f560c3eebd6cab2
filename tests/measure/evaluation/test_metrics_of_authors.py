"""Every metric scores drawn answers as its authors publish it; the definitions are written once
more here, in another form, and share no code with the metrics.

What the authors' own scripts gave for single cases lies in `test_metrics.py`.
"""

import functools
import re
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm_measure.evaluation.metrics import METRICS

MARKS = set(';/[]"{}()=+\\_-><@`,?!')
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
# Of the evaluation page's list (visualqa.org/evaluation.html), and one that the script turns round.
APOSTROPHES = {
    "dont": "don't", "cant": "can't", "couldnt've": "couldn't've", "oclock": "o'clock",
    "yall": "y'all", "y'alld've": "y'all'd've", "thats": "that's", "twas": "'twas",
    "somebody'd": "somebodyd", "shouldn'tve": "shouldn't've",
}  # fmt: skip
WORDS = st.sampled_from(
    ["two", "2", "Two", "none", "0", "a", "an", "the", "The", "red", "Red", "car", "no", "yes",
     "its", "it's", "3.5", "1,000", "1000", "10:30", "Straße", "٣,٣", "²", "McDonald's", "...",
     *APOSTROPHES, *APOSTROPHES.values()]
)  # fmt: skip
GLUE = st.sampled_from([" ", " ", " ", "", "  ", "-", " - ", ", ", ",", ".", "? ", "\n", "\t", "'"])
TEXTS = st.lists(st.tuples(GLUE, WORDS, GLUE), max_size=4).map(
    lambda parts: "".join(text for part in parts for text in part)
)


def varied(text: str) -> st.SearchStrategy[str]:
    """The text, or one that some normalisation makes of it or undoes."""
    others = [text.upper(), f"{text}.", f" {text}\n", f"the {text}", text.replace(" ", "  ")]
    return st.one_of(st.just(text), st.sampled_from(others), TEXTS)


@st.composite
def answered(draw: st.DrawFn) -> tuple[str, list[str]]:
    """An answer and those of annotators, many of them alike."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=3))
    annotators = [
        draw(st.sampled_from(texts).flatmap(varied)) for _ in range(draw(st.integers(1, 4)))
    ]
    annotators += draw(st.lists(st.sampled_from(texts), min_size=4, max_size=9))
    if draw(st.booleans()):
        annotators = [texts[0]] * len(annotators)
    return draw(st.sampled_from(texts).flatmap(varied)), annotators


def one_line(text: str) -> str:
    return "".join(" " if letter in "\n\t" else letter for letter in text).strip()


def comparable(text: str) -> str:
    beside_space = {a + b for a, b in pairwise(text)}
    in_number = any(
        a.isdecimal() and comma == "," and b.isdecimal()
        for a, comma, b in zip(text, text[1:], text[2:], strict=False)
    )
    unmarked = ""
    for letter in text:
        if letter not in MARKS:
            unmarked += letter
        elif not in_number and not beside_space & {f"{letter} ", f" {letter}"}:
            unmarked += " "
    spoken, dropped = "", 0
    for letter, after in zip(unmarked, unmarked[1:] + " ", strict=False):
        if letter == "." and not after.isdecimal() and dropped < 32:
            dropped += 1
        else:
            spoken += letter
    words = []
    for word in spoken.lower().split():
        if word == "none" or word in NUMBERS:
            words.append("0" if word == "none" else str(NUMBERS.index(word)))
        elif word not in ("a", "an", "the"):
            words.append(APOSTROPHES.get(word, word))
    return " ".join(words)


def agreed(answer: str, annotators: list[str]) -> Fraction:
    """The share of three that agree, without each annotator in turn."""
    shares = [
        Fraction(min(3, (annotators[:at] + annotators[at + 1 :]).count(answer)), 3)
        for at in range(len(annotators))
    ]
    return sum(shares, Fraction()) / len(shares)


@settings(max_examples=200)
@given(answered())
def test_vqa_is_that_of_the_authors_script_of_2021(case):
    answer, annotators = case
    lines = [one_line(text) for text in annotators]
    if lines.count(lines[0]) == len(lines):
        expected = agreed(one_line(answer), lines)
    else:
        expected = agreed(comparable(one_line(answer)), [comparable(text) for text in lines])
    assert METRICS["vqa"].score(answer, annotators) == pytest.approx(float(expected))


@settings(max_examples=200)
@given(answered())
def test_textvqa_is_that_of_llava(case):
    def plain(text: str) -> str:
        return comparable(one_line(re.sub("[,?]", "", text.lower()).replace("'s", " 's")))

    answer, annotators = case
    expected = agreed(plain(answer), [plain(text) for text in annotators])
    assert METRICS["textvqa"].score(answer, annotators) == pytest.approx(float(expected))


@functools.cache
def distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a + b)
    if a[0] == b[0]:
        return distance(a[1:], b[1:])
    return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))


SHORT = st.text(alphabet="abAß \n", max_size=7)


@settings(max_examples=200)
@given(SHORT, st.lists(SHORT, min_size=1, max_size=3))
def test_anls_is_that_of_the_robust_reading_competition(answer, expected):
    best = Fraction(0)
    for text in expected:
        length = max(len(answer.upper()), len(text.upper()))
        plain = [re.sub(r"\s+", " ", side.lower().strip()) for side in (answer, text)]
        best = max(best, 1 - Fraction(distance(*plain), length or 1))
    score = best if best >= Fraction(1, 2) else 0
    assert METRICS["anls"].score(answer, expected) == pytest.approx(float(score))


PIECES = ["A", "B", "E", "F", "b", ". ", ".", "\n", " ", "iron", "The answer is ", "the answer is "]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.sampled_from("ABCDE"))
def test_a_choice_is_read_as_by_llavas_script(answer, letter):
    read, at = [], answer.find("The answer is ")
    while at >= 0:
        name, after = answer[at + 14 : at + 15], answer[at + 15 : at + 16]
        whole = name.isascii() and name.isupper() and after not in ("", "\n")
        read += [name] if whole else []
        at = answer.find("The answer is ", at + 16 if whole else at + 1)
    if answer in list("ABCDE") or re.match(r"[A-E]\. ", answer):
        right = answer.startswith(letter)
    else:
        right = read == [letter]
    assert METRICS["choice"].score(answer, [letter]) == right


SAYS = ["No", "no", "not", "NO", "Not", "Yes", "yes", "there is", "nothing", ".", ",", " ", "\n"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(SAYS), max_size=7).map("".join), st.sampled_from(["yes", "no"]))
def test_yes_and_no_are_read_as_by_popes_script(answer, label):
    first = answer.replace(",", "").partition(".")[0]
    yes = not re.search(r"(?<![^ ])(No|no|not)(?![^ ])", first)
    outcome = ("true" if yes == (label == "yes") else "false") + (" yes" if yes else " no")
    counted = dict(
        zip(
            ["true yes", "false yes", "true no", "false no"],
            METRICS["yesno-f1"].parts(answer, [label]),
            strict=True,
        )
    )
    assert counted == {name: float(name == outcome) for name in counted}


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["red", "t-shirt", "10:30", "car"]), min_size=1, max_size=2),
    st.sampled_from([" ", "  ", "\n"]),
    st.sampled_from(["", ".", "..", " .", "!", ". ", "s"]),
    st.sampled_from(["", " ", ".", "the "]),
    st.booleans(),
)
def test_exact_is_llavas_of_gqa(words, between, after, before, capitals):
    answer = before + between.join(words) + after
    answer = answer.title() if capitals else answer
    # LLaVA strips what the model wrote when it writes it down.
    right = re.fullmatch(re.escape(" ".join(words)) + r"\.*", answer.strip().lower()) is not None
    assert METRICS["exact"].score(answer, [" ".join(words)]) == right


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["red", "Red", "car", "cart", "ß", "10"]), max_size=5),
    st.lists(st.sampled_from(["red", "car", "SS", "10"]), min_size=1, max_size=2),
    st.sampled_from([" ", ", ", "-", "\n"]),
)
def test_contains_is_a_run_of_words(words, expected, between):
    spoken, wanted = (f" {' '.join(part)} ".casefold() for part in (words, expected))
    score = METRICS["contains"].score(between.join(words), [" ".join(expected)])
    assert score == (wanted in spoken)
