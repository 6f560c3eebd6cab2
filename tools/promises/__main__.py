"""``python -m promises``: records what is promised; a deliberate act, with a line in the changelog
that says what changes for whom."""

from __future__ import annotations

import json

import click

from pocketvlm.files import replace_file
from promises import RECORD, promises


@click.command(help=__doc__)
def main() -> None:
    """Write docs/promises.json."""
    replace_file(RECORD, (json.dumps(promises(), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
