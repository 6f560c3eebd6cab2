"""Answers of exported artifacts against Hugging Face's own classes: ``PYTHONPATH=tools python -m
parity``.

Of the demo and of tiny checkpoints of every family, drawn questions about drawn pictures, in every
precision and engine, pruned by the family's default method and not at all. Checkpoints, artifacts
and comparisons stay in BUILD: an interrupted run continues. Exit code 3 where float32 differs
beyond a tie.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import click

from page_section import replace_section
from parity.cases import checkpoints
from parity.rows import Rows
from parity.run import METHODS, SEED, run
from parity.table import failed, figures, sections
from pocketvlm.files import replace_file
from pocketvlm_export.verification import ParityError
from pocketvlm_measure.progress import progress

_PATH = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--build", type=_PATH, default=Path("build/parity"), show_default=True)
@click.option("--questions", default=200, show_default=True, help="Of each checkpoint.")
@click.option("--only", multiple=True, metavar="NAME", help="A checkpoint; may be repeated.")
@click.option("--page", type=_PATH, help="Write the tables between this file's markers.")
@click.option("--figures", "path", type=_PATH, help="Write the figures as JSON.")
def main(
    build: Path, questions: int, only: tuple[str, ...], page: Path | None, path: Path | None
) -> None:
    """Compare, print, and write where asked."""
    build.mkdir(parents=True, exist_ok=True)
    names = [name for name in checkpoints() if not only or name in only]
    head = {"seed": SEED, "drawn": "1"}
    with Rows(build / "comparisons.jsonl", head) as rows:
        broken = [
            f"{name} {method}"
            for name in progress(names, desc="checkpoints")
            for method in METHODS
            if not _ran(build, name, method, questions, rows)
        ]
        order = checkpoints()
        by_key = {
            key: row
            for key, row in sorted(
                rows.by_key.items(),
                key=lambda item: (order.index(item[0][0]), METHODS.index(item[0][1])),
            )
            if key[3] < questions
        }
    summaries = figures(by_key)
    for name, text in sections(by_key).items():
        click.echo(f"{text}\n")
        if page:
            replace_section(page, name, text)
    if path:
        replace_file(path, f"{json.dumps(summaries, indent=1)}\n".encode())
    if differing := failed(by_key):
        for key, row in differing[:20]:
            click.echo(f"differs: {key} {row}", err=True)
        sys.exit(ParityError.exit_code)
    if broken:
        sys.exit(f"not compared: {', '.join(broken)}")


def _ran(build: Path, name: str, method: str, questions: int, rows: Rows) -> bool:
    """Whether a checkpoint could be compared; a failure is printed, and the others continue."""
    try:
        run(build, name, method, questions, rows)
    except Exception:  # noqa: BLE001  # of any library: hours of the others' work are not lost
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    main()
