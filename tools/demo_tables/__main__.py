"""The accuracy tables of docs/measured.md, through `pocketvlm evaluate`: ``PYTHONPATH=tools python
-m demo_tables``.

Exact match of the demo on held-out questions: every pruning method by the share of visual tokens
kept, FasterVLM by kind of question, every precision and decoder with all tokens, beside the
checkpoint in Hugging Face's ``generate``. Artifacts and answers stay in BUILD: what exists is not
made again, so that an interrupted run continues.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from demo_questions.__main__ import write_set
from demo_tables import engines, methods
from measured_page.pages import publish
from pocketvlm.files import replace_file
from pocketvlm_measure.evaluation.questions import read_questions

_PATH = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.option("--build", type=_PATH, default=Path("build/demo-tables"), show_default=True)
@click.option("--questions", default=1_000, show_default=True, help="Held-out questions.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--page", type=_PATH, help="Write the tables between this file's markers.")
@click.option("--figures", type=_PATH, help="Write the figures as JSON.")
def main(
    build: Path, questions: int, workers: int, page: Path | None, figures: Path | None
) -> None:
    """Measure, print, and write where asked."""
    folder = build / f"questions-{questions}"
    path = folder / "questions.jsonl"
    data = read_questions(path if path.exists() else write_set(folder, "test", questions))
    by_method = methods.measure(build, data, workers)
    sections = {"methods": methods.table(by_method), "kinds": methods.kinds_table(by_method)}
    by_engine = engines.measure(build, data, workers)
    sections["engines"] = engines.table(by_engine, len(data.questions))
    for name, text in sections.items():
        click.echo(f"{text}\n")
        if page:
            publish(page, name, text)
    if figures:
        results = {
            "methods": methods.figures(by_method),
            "engines": {row.name: round(row.percent, 2) for row in by_engine},
        }
        written = {"questions": len(data.questions), **results}
        replace_file(figures, f"{json.dumps(written, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
