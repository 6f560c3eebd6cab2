"""Knows `pocketvlm questions`: the files of a public benchmark become a set that `evaluate`
reads."""

from __future__ import annotations

from pathlib import Path

import click

from pocketvlm.cli.lists import PATH
from pocketvlm.cli.terminal import echo, printable
from pocketvlm_measure.evaluation.public import BENCHMARKS


def _help() -> str:
    """The command's help, which lists the files of each benchmark as its module names them."""
    width = max(map(len, BENCHMARKS))
    files = "\n".join(
        f"{name:{width}}  {' '.join(benchmark.files)}" for name, benchmark in BENCHMARKS.items()
    )
    return (
        "Write a public benchmark as a set of questions that `evaluate` reads.\n\n"
        "Its files, in this order; those in brackets may be left out:\n\n"
        f"\b\n{files}\n\n"
        "Prompts are those with which LLaVA-1.5 is evaluated. Nothing is downloaded."
    )


@click.command(
    help=_help(),
    epilog="Example: pocketvlm questions gqa testdev_balanced_questions.json --images gqa/images "
    "-o gqa.jsonl",
)
@click.argument("benchmark", type=click.Choice(list(BENCHMARKS)))
@click.argument("files", metavar="FILE...", type=PATH, nargs=-1, required=True)
@click.option(
    "--images",
    type=PATH,
    required=True,
    metavar="FOLDER",
    help="Where the benchmark's pictures are.",
)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="OUT.jsonl", help="The set to write."
)
def questions(benchmark: str, files: tuple[Path, ...], images: Path, output: Path) -> None:
    """Convert the files of a benchmark and say with which metric to evaluate the set."""
    chosen = BENCHMARKS[benchmark]
    count = chosen.convert(files, images, output)
    echo(printable(f"{output}: {count} questions; evaluate them with --metric {chosen.metric}"))
