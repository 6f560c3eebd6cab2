"""The reference of docs/api.md: ``PYTHONPATH=tools python -m api_page docs/api.md [--check]``.

It needs the extra ``[docs]``.
"""

from __future__ import annotations

from pathlib import Path

import click

from api_page.pages import render
from page_section import replace_section, section

_SECTION = "api"


@click.command()
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Change nothing; exit 1 where the page is stale.")
def main(page: Path, check: bool) -> None:
    """Write the reference into PAGE between its markers."""
    text = render()
    if not check:
        replace_section(page, _SECTION, text)
    elif section(page, _SECTION) != text:
        raise click.ClickException(f"{page} is stale: run this command without --check")


if __name__ == "__main__":
    main()
