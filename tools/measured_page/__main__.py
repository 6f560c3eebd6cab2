"""The tables of docs/measured.md: ``PYTHONPATH=tools python -m measured_page [NAME FILE]``.

With NAME and FILE, what a measurement printed goes into that section and its data. Without, every
section is written again from its data.
"""

from __future__ import annotations

from pathlib import Path

import click

from measured_page.pages import publish, show
from measured_page.views import VIEWS

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(sorted(VIEWS)), required=False)
@click.argument("file", type=_FILE, required=False)
@click.option("--page", type=_FILE, default=Path("docs/measured.md"), show_default=True)
def main(name: str | None, file: Path | None, page: Path) -> None:
    """Write one section, or all."""
    if name and file:
        publish(page, name, file.read_text(encoding="utf-8").strip())
        return
    for each in VIEWS:
        show(page, each)


if __name__ == "__main__":
    main()
