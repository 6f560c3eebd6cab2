"""The demo's questions as a set for `pocketvlm evaluate`: ``PYTHONPATH=tools python -m
demo_questions OUT``.

OUT/questions.jsonl and a PNG for each picture. The splits draw from seeds of their own: nothing
that the demo was trained on, or that was looked at while training, is in ``test``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pocketvlm.files import replace_file
from train_demo.scenes import SPLITS, Question, question_set


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--split", type=click.Choice(list(SPLITS)), default="test", show_default=True)
@click.option("--count", default=1_000, show_default=True, help="Questions.")
@click.option(
    "--per-picture",
    default=1,
    show_default=True,
    help="Questions about each picture, of different kinds.",
)
def main(out: Path, split: str, count: int, per_picture: int) -> None:
    """Write a set."""
    click.echo(write_set(out, split, count, per_picture))


def write_set(out: Path, split: str, count: int, per_picture: int = 1) -> Path:
    """Write ``count`` questions of a split with their pictures into ``out``; returns the JSONL
    file."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    asked = question_set(split, count, per_picture=per_picture)
    for number, (picture, question) in enumerate(tqdm(asked, "drawing", total=count, disable=None)):
        name = f"{split}-{number // per_picture:06d}.png"
        if number % per_picture == 0:
            picture.save(out / name)
        rows.append(question_row(name, question))
    path = out / "questions.jsonl"
    write_rows(path, rows)
    return path


def question_row(image: str, question: Question) -> dict[str, Any]:
    """A question as the set has it; its kind is its tag."""
    return {
        "image": image,
        "question": question.text,
        "answers": [question.answer],
        "tags": [question.kind],
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a set."""
    replace_file(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


if __name__ == "__main__":
    main()
