"""docs/api.md has every public name, each with an example (`test_readme` runs them), and says what
the docstrings say."""

import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

import pocketvlm
from api_page import CHAPTERS
from page_section import section

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
ENTRY = re.compile(r"^### (\S+)\n(.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)
NAMES = [name for chapter in CHAPTERS for name in chapter.names]


def entries():
    """What the page says of each name."""
    return {name.replace("\\", ""): text for name, text in ENTRY.findall(PAGE.read_text("utf-8"))}


def test_every_public_name_is_on_the_page():
    assert list(entries()) == NAMES
    assert set(pocketvlm.__all__) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example(name):
    assert "```pycon\n>>> " in entries()[name]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.title)
def test_every_field_has_a_row_and_every_row_is_a_value_or_a_name(chapter):
    for name in chapter.names:
        public = getattr(import_module(chapter.module), name)
        rows = dict(re.findall(r"^\| `([^`]*)` \|(?: (?:`([^`]*)` )?\|)?", entries()[name], re.M))
        if is_dataclass(public) and isinstance(public, type):
            own = {field.name for field in fields(public) if field.name in public.__annotations__}
            assert own <= set(rows), name
        assert all(row.isidentifier() for row in rows), name
        assert not [default for default in rows.values() if default.startswith("field(")], name


def test_the_page_says_what_the_docstrings_say():
    pytest.importorskip("griffe", reason="the extra [docs] is not installed")
    from api_page.pages import render

    assert section(PAGE, "api") == render(), "run: PYTHONPATH=tools python -m api_page docs/api.md"
