"""``python -m licences``: writes the table of docs/licences.md, of an environment that has
everything of requirements.lock."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import click

from licences import Licence, licence_of, needed_for
from lock import LOCK, ROOT, read_lock
from page_section import replace_section

PAGE = ROOT / "docs" / "licences.md"


@click.command(help=__doc__)
def main() -> None:
    """Write it."""
    try:
        licences = read_licences()
    except PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed: make licences LOCKED=1") from error
    replace_section(PAGE, "licences", table(licences))
    replace_section(PAGE, "copyleft", copyleft_table(licences))


def read_licences() -> list[Licence]:
    """Every release of the lock file, by what its installed package says."""
    releases = read_lock(LOCK.read_text(encoding="utf-8"))
    parts = needed_for(releases)
    return [
        Licence(name, release.version, licence_of(name), parts[name])
        for name, release in sorted(releases.items())
    ]


def row(licence: Licence) -> str:
    """A line of the table."""
    cells = (licence.name, licence.version, licence.licence, ", ".join(licence.comes_with))
    return f"| {' | '.join(cells)} |"


def table(licences: list[Licence]) -> str:
    """Every release."""
    head = ["| package | release | licence | comes with |", "|---|---|---|---|"]
    return "\n".join(head + [row(licence) for licence in licences])


def copyleft_table(licences: list[Licence]) -> str:
    """Those that are copyleft, or carry something that is."""
    head = ["| package | comes with | what is copyleft |", "|---|---|---|"]
    rows = [
        f"| {one.name} | {', '.join(one.comes_with)} | {one.copyleft} |"
        for one in licences
        if one.copyleft
    ]
    return "\n".join(head + rows)


if __name__ == "__main__":
    main()
