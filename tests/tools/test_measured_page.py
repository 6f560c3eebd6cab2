"""docs/measured.md shows its data, and what a measurement prints becomes data whole."""

import json
import re
from pathlib import Path

import pytest

from measured_page import VIEWS, parsed, shown
from measured_page.pages import publish, read
from page_section import section

PAGE = Path(__file__).parents[2] / "docs" / "measured.md"
PRINTED = """Two turns, median milliseconds (smallest-largest):

| decoder | first token | right | against | |
|---|---|---|---|---|
| onnx | 12.5 (11.0-14.5) | 98.9 [98.2, 99.5] | 97.9 (0.45) | **1.0x** |
| llama.cpp | 20 |  | 96.4 (<0.0001) | 2.0x |

Another run."""


@pytest.mark.parametrize("name", VIEWS)
def test_the_page_shows_its_data(name):
    assert section(PAGE, name) == shown(name, read(PAGE, name)), "run: python -m measured_page"


def test_every_file_of_data_is_linked():
    files = {path.name for path in (PAGE.parent / "data").glob("*.json")}
    pages = "".join(path.read_text("utf-8") for path in PAGE.parent.glob("*.md"))
    assert files == set(re.findall(r"\]\(data/([\w.-]+)\)", pages))


def test_what_was_printed_becomes_data():
    data = parsed(PRINTED)
    assert data.about == ["Two turns, median milliseconds (smallest-largest):", "Another run."]
    (table,) = data.tables
    assert table.columns == ["decoder", "first token", "right", "against", ""]
    assert table.rows == [
        [
            "onnx",
            {"median": 12.5, "smallest": 11.0, "largest": 14.5},
            {"value": 98.9, "low": 98.2, "high": 99.5},
            {"value": 97.9, "p": 0.45},
            "1.0x",
        ],
        ["llama.cpp", 20, "", {"value": 96.4, "p": "<0.0001"}, "2.0x"],
    ]


def test_a_measurement_goes_into_its_data_and_onto_the_page(tmp_path):
    page, name = tmp_path / "measured.md", "vision"
    (tmp_path / "data").mkdir()
    page.write_text(f"before\n<!-- {name} -->\nold\n<!-- /{name} -->\nafter\n")
    head = "| vision graph | milliseconds, median (smallest-largest) | of the unpruned | nodes |"
    publish(page, name, f"Busy.\n\n{head}\n|---|---|---|---|\n| 64 | 9.5 (9.1-9.9) | 0.95x | 7 |")
    data = json.loads((tmp_path / "data" / "vision.json").read_text())
    assert data["about"] == ["Busy."]
    assert data["tables"][0]["rows"][0][3] == 7
    assert "| 64 | 9.5 | 0.95x |" in page.read_text()
    assert page.read_text().startswith("before\n")
