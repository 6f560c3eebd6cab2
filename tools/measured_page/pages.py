"""Knows where the data of a section lies, and puts what a measurement printed there and onto the
page."""

from __future__ import annotations

import json
from pathlib import Path

from measured_page.tables import Section, parsed
from measured_page.views import VIEWS, shown
from page_section import replace_section
from pocketvlm.files import replace_file


def publish(page: Path, name: str, text: str) -> None:
    """Put what a measurement printed as Markdown into section ``name`` of a page.

    Where the section has a view, the data goes into ``data/NAME.json`` beside the page, and the
    page gets what the view shows of it.
    """
    if name not in VIEWS or not data_file(page, name).parent.is_dir():
        replace_section(page, name, text)
        return
    data = json.dumps(parsed(text).to_dict(), ensure_ascii=False, indent=1)
    replace_file(data_file(page, name), f"{data}\n".encode())
    show(page, name)


def show(page: Path, name: str) -> None:
    """Put what the view shows of the data onto the page."""
    replace_section(page, name, shown(name, read(page, name)))


def read(page: Path, name: str) -> Section:
    """The data of a section."""
    return Section.from_dict(json.loads(data_file(page, name).read_text(encoding="utf-8")))


def data_file(page: Path, name: str) -> Path:
    """Where the data of a section lies."""
    return page.parent / "data" / f"{name}.json"
