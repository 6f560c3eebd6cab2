"""Knows how generated text gets into a page: between ``<!-- name -->`` and ``<!-- /name -->``.

``PYTHONPATH=tools python -m page_section docs/methods.md NAME FILE`` puts a file there; into
docs/measured.md, where the data of a table lies beside it, `measured_page` does.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from pocketvlm.files import replace_file

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers of ``name``; ValueError when the file has no such
    markers."""
    page, count = _pattern(name).subn(
        lambda match: f"{match[1]}{text}\n{match[3]}", path.read_text()
    )
    if count != 1:
        raise ValueError(f"{path} has {count} sections '{name}'; expected one '<!-- {name} -->'")
    replace_file(path, page.encode())


def section(path: Path, name: str) -> str:
    """The text between the markers of ``name``; ValueError when the file has no such markers."""
    if (match := _pattern(name).search(path.read_text())) is None:
        raise ValueError(f"{path} has no section '{name}'")
    return match[2].removesuffix("\n")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(
        rf"(<!-- {re.escape(name)} -->\n)(.*?)(<!-- /{re.escape(name)} -->)", re.DOTALL
    )


@click.command()
@click.argument("page", type=_FILE)
@click.argument("name")
@click.argument("file", type=_FILE)
def main(page: Path, name: str, file: Path) -> None:
    """Put the text of FILE into section NAME of PAGE."""
    replace_section(page, name, file.read_text().strip())


if __name__ == "__main__":
    main()
