"""Knows where prose is: in pages, docstrings, comments, and the strings of a program.

Docstrings are read as the Markdown that they are, so that code, tables and links count as such.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_DOCTEST = re.compile(r"^ *(>>>|\.\.\.).*$", re.MULTILINE)  # quotations in Markdown
_DIRECTIVE = re.compile(r"#\s*(noqa|type:|pragma|mypy:|ruff:|fmt:)|#!")
_CODE = "Code"  # begins a sentence as a name does
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Passage:
    """A paragraph on one line; of its code there is one word, of its links the text."""

    file: Path
    line: int
    text: str
    sentences: bool = True  # False of the cells of tables, of titles and of strings


def page(path: Path) -> Iterator[Passage]:
    """Yield the paragraphs of a Markdown file; raises click's `ClickException` for one that is not
    UTF-8."""
    yield from _markdown(path, _FRONT_MATTER.sub("", _text(path)), 1)


def program(path: Path) -> Iterator[Passage]:
    """Yield the docstrings, comments and strings of a Python file; raises click's `ClickException`
    for one that cannot be parsed or is not UTF-8."""
    source = _text(path)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL, in some releases of Python
        raise click.ClickException(f"{path} cannot be parsed ({error}): correct it") from error
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            statement = node.body[0]
            assert isinstance(statement, ast.Expr)
            assert isinstance(statement.value, ast.Constant)
            docstrings.add(statement.value)
            text = _DOCTEST.sub("", inspect.cleandoc(str(statement.value.value)))
            yield from _markdown(path, text, statement.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in docstrings and " " in str(node.value):
            yield Passage(path, node.lineno, " ".join(str(node.value).split()), sentences=False)
    yield from _comments(path, source)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error


def _markdown(path: Path, text: str, first: int) -> Iterator[Passage]:
    line, is_sentence = first, True
    for token in _MARKDOWN.parse(text):
        if token.map is not None:
            line = first + token.map[0]
        if token.type in ("paragraph_open", "td_open", "th_open", "heading_open"):
            is_sentence = token.type == "paragraph_open"
        if token.type == "inline":
            yield Passage(path, line, " ".join(_plain(token).split()), is_sentence)


def _plain(token: Token) -> str:
    """Return an inline token's text, without markup and pictures."""
    words = {"softbreak": " ", "hardbreak": " ", "code_inline": _CODE, "image": ""}
    words["html_inline"] = ""
    return "".join(words.get(child.type, child.content) for child in token.children or [])


def _comments(path: Path, source: str) -> Iterator[Passage]:
    """Yield comments, those on consecutive lines of their own as one."""
    block: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue
        row, is_own_line = token.start[0], not token.line[: token.start[1]].strip()
        if block and not (is_own_line and row == last + 1):
            yield Passage(path, start, " ".join(block))
            block = []
        if not block:
            start = row
        block.append(re.sub(r"`[^`]*`", _CODE, token.string.lstrip("#").strip()))
        last = row if is_own_line else -1
    if block:
        yield Passage(path, start, " ".join(block))
