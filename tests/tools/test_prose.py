"""The check of words and sentences finds what is planted in pages and programs, by the list of
CONTRIBUTING."""

from pathlib import Path

import pytest
from click import ClickException

from prose.__main__ import check
from prose.limits import Limit, sentences
from prose.passages import page, program
from prose.words import misused, read_words

ROOT = Path(__file__).parents[2]
WORDS = read_words(ROOT / "CONTRIBUTING.md")
LONG = " ".join(["word"] * 26)

PROGRAM = '''\
"""Knows nothing, and what it drops goes
on in `goes on` alone."""

GOES_ON = "the tower goes on"  # it takes
# the tower
# takes fright.


def weighs(weighs: None = None) -> None:
    """Return that is None.

    >>> "goes on"

        a block of code that goes on
    """
'''
PAGE = """\
# What goes on

It goes on. `It goes on.` The picture's
tokens weigh, or [what goes](https://goes.on/) on.

| a cell that goes on | `goes on` |
|---|---|
| x | y |

```text
goes on
```
"""


def _lines(passages):
    return [(p.line, expression) for p in passages for expression, _ in misused(p, WORDS)]


def test_words_are_looked_for_in_prose_alone(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "page.md").write_text(PAGE)
    assert sorted(_lines(program(tmp_path / "program.py"))) == [
        (1, "goes on"),  # over the end of a line
        (4, "goes on"),  # a text that people may read
        (5, "takes fright"),
    ]
    assert _lines(page(tmp_path / "page.md")) == [
        (1, "goes on"),
        (3, "goes on"),
        (6, "goes on"),
    ]


def test_what_is_no_such_thing_is_not_one(tmp_path):
    """A noun that is denied is found; "there is no", comparisons and "has no" are not."""
    (tmp_path / "page.md").write_text(
        "It is no picture. They were no pictures. There is no picture, it is no longer here, and\n"
        "there are no others; two are no more than a few. It has no picture.\n"
    )
    assert _lines(page(tmp_path / "page.md")) == [(1, "is no picture"), (1, "were no pictures")]


def test_a_program_that_cannot_be_parsed_ends_in_one_line(tmp_path):
    for text in ("def (", "a = 1\0"):
        (tmp_path / "program.py").write_text(text)
        with pytest.raises(ClickException, match=r"program.py cannot be parsed \(.*\): correct"):
            list(program(tmp_path / "program.py"))


@pytest.mark.parametrize("read", [page, program])
def test_a_file_that_is_not_utf_8_ends_in_one_line(tmp_path, read):
    (tmp_path / "file").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ClickException, match=r"file is not UTF-8 \(.*\): save it as UTF-8$"):
        list(read(tmp_path / "file"))


def test_words_in_brackets_are_notes_and_a_list_must_be_there(tmp_path):
    contributing = tmp_path / "CONTRIBUTING.md"
    contributing.write_text(
        "| instead of | write |\n|---|---|\n| a b (of c); d | e |\n\n| f | g |\n"
    )
    assert [(w.expression.pattern, w.instead) for w in read_words(contributing)] == [
        (r"\b[Aa]\ b\b", "e"),
        (r"\b[Dd]\b", "e"),
    ]
    contributing.write_text("# Contributing\n")
    with pytest.raises(ValueError, match="no table headed"):
        read_words(contributing)


def test_sentences_are_counted_as_people_read_them(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "The model's `a b c` costs 0.5 s, e.g. here. `x` follows the tower's. See [two words](a).\n"
    )
    assert [(text, words) for _, text, words in sentences(page(path))] == [
        ("The models Code costs 0.5 s, e.g. here.", 8),
        ("Code follows the towers.", 4),
        ("See two words.", 3),
    ]


@pytest.mark.parametrize(
    ("limit", "faults"),
    [
        (Limit(share=0.5, longest=26), 0),
        (Limit(share=0.5, longest=25), 1),
        (Limit(share=0.4, longest=26), 2),
    ],
)
def test_a_share_of_long_sentences_may_be_exceeded_and_their_length(tmp_path, limit, faults):
    path = ROOT / "tools" / "prose" / "planted.md"  # never written: places are named below ROOT
    (tmp_path / "page.md").write_text(f"{LONG.capitalize()}. Short.\n")
    passages = [type(p)(path, p.line, p.text, p.sentences) for p in page(tmp_path / "page.md")]
    assert len(check("planted.md", passages, WORDS, limit, False)) == faults
