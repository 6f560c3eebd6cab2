"""docs/troubleshooting.md quotes lines that the source can print, and covers every class of error,
every exit code, and every refusal that names no remedy itself."""

import ast
import re
from pathlib import Path

import pytest

from pocketvlm.errors import PocketVLMError
from pocketvlm_export.verification import ParityError
from pocketvlm_targets import TargetError

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "exporter", "profiles")
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
# The first column of the tables of lines: a quotation, with ... for what varies.
QUOTED = [
    quote
    for table in re.findall(r"^\| line \|.*\n\|---.*\n((?:\|.*\n?)+)", PAGE, re.MULTILINE)
    for quote in re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
]
CLASSES = {ParityError, TargetError, *PocketVLMError.__subclasses__()}
HOLE = "\0"  # what an f-string or a call puts in


def text_of(node):
    """What an expression can be as text, with a hole for each value that is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return HOLE


def refusals():
    """The texts of each error that is made somewhere in the packages: found, expected, advice."""
    names = {kind.__name__ for kind in CLASSES}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names:
                    fields = dict(zip(("found", "expected", "advice"), node.args, strict=False))
                    fields |= {keyword.arg: keyword.value for keyword in node.keywords}
                    texts = [
                        text_of(fields[name])
                        for name in ("found", "expected", "advice")
                        if name in fields
                    ]
                    yield file, node.lineno, texts, "expected" in fields or "advice" in fields


def quotes(quote, line):
    """Whether a quotation may be part of a line, which has holes."""
    return re.search(".*".join(map(re.escape, quote.split("..."))), line, re.DOTALL) is not None


REFUSALS = list(refusals())
LINES = [" ".join(texts) for _, _, texts, _ in REFUSALS]


@pytest.mark.parametrize("quote", QUOTED)
def test_every_quotation_is_in_the_source(quote):
    assert any(quotes(quote, line) for line in LINES)


def test_what_names_no_remedy_is_explained():
    """A line without expectation or advice leaves the reader alone, unless the page has it."""
    alone = [
        f"{file.relative_to(ROOT)}:{number} {texts}"
        for file, number, texts, helps in REFUSALS
        if not helps and re.search(r"\w", " ".join(texts))  # else another library's own words
        if not any(quotes(quote, " ".join(texts)) for quote in QUOTED)
    ]
    assert len(REFUSALS) > 400
    assert not alone


def test_every_class_and_every_exit_code_is_explained():
    assert {kind.__name__ for kind in CLASSES} <= set(re.findall(r"`(\w+Error)`", PAGE))
    codes = {kind.exit_code for kind in (PocketVLMError, *PocketVLMError.__subclasses__())}
    assert codes | {0, 2, 130} == {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
