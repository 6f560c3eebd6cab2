"""What docs/security.md and docs/stability.md promise: each promise names tests that exist, and the
listed ones are recorded."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

import pocketvlm
from promises import RECORD, promises

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("security.md", "stability.md")
# [`test_name`](../tests/path.py)
_LINK = re.compile(r"\[`(test_\w+)`\]\((\.\./tests/[^)#]+\.py)\)")


def tables(page):
    """(head, rows) of every table of a page, cells as text."""
    for block in re.split(r"\n\s*\n", (DOCS / page).read_text()):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if len(lines) > 2:
            cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
            yield cells[0], cells[2:]


def promised(page):
    return [row for head, rows in tables(page) if head[-1].strip() == "tests" for row in rows]


@cache
def names_in(path):
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_links_to_a_test_that_exists(page):
    rows = promised(page)
    assert len(rows) >= 10
    for row in rows:
        links = _LINK.findall(row[-1])
        assert links, f"{page}: {row[0]} links to no test"
        for name, link in links:
            path = (DOCS / link).resolve()
            assert path.is_file(), f"{page}: {link} is not there"
            assert name in names_in(path), f"{page}: {link} has no {name}"


@pytest.mark.parametrize("page", [*PAGES, "licences.md"])
def test_links_of_a_page_lead_somewhere(page):
    text = (DOCS / page).read_text()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (DOCS / link).exists(), f"{page}: {link}"


def test_promises_change_on_purpose_alone():
    """Where it is meant: PYTHONPATH=tools python -m promises, and a line in the release's notes."""
    recorded = json.loads(RECORD.read_text())
    assert promises() == recorded


def test_the_record_holds_what_is_public():
    recorded = json.loads(RECORD.read_text())
    names = {name.partition(".")[2] for name in recorded["python"]}
    assert {name for name in pocketvlm.__all__ if name[0] != "_"} <= names
    assert recorded["python"]["pocketvlm.Chat"]["methods"]["ask"][0] == "prompt"
    assert "found" in recorded["python"]["pocketvlm.PocketVLMError"]["attributes"]
    assert "--image" in recorded["commands"]["run"]
    assert recorded["exit_codes"]["parity"] == 3
