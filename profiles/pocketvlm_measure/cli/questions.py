"""Knows `pocketvlm questions`: the files of a public benchmark become a set that `evaluate`
reads."""

from __future__ import annotations

from pathlib import Path

import click

BENCHMARKS = ("vqav2", "gqa", "textvqa", "pope", "scienceqa")
_PATH = click.Path(path_type=Path)


@click.command(
    epilog="Example: pocketvlm questions gqa testdev_balanced_questions.json --images gqa/images "
    "-o gqa.jsonl"
)
@click.argument("benchmark", type=click.Choice(BENCHMARKS))
@click.argument("files", metavar="FILE...", type=_PATH, nargs=-1, required=True)
@click.option(
    "--images",
    type=_PATH,
    required=True,
    metavar="FOLDER",
    help="Where the benchmark's pictures lie.",
)
@click.option(
    "-o", "--output", type=_PATH, required=True, metavar="OUT.jsonl", help="The set to write."
)
def questions(benchmark: str, files: tuple[Path, ...], images: Path, output: Path) -> None:
    """Write a public benchmark as a set of questions that `evaluate` reads.

    \b
    vqav2      v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json
    gqa        testdev_balanced_questions.json
    textvqa    TextVQA_0.5.1_val.json [TextVQA_Rosetta_OCR_v0.2_val.json]
    pope       coco_pope_random.json coco_pope_popular.json coco_pope_adversarial.json
    scienceqa  problems.json pid_splits.json

    Prompts are those with which LLaVA-1.5 is evaluated. Nothing is downloaded.
    """
    from pocketvlm.cli.terminal import printable
    from pocketvlm_measure.evaluation.public import BENCHMARKS as FOUND

    chosen = FOUND[benchmark]
    count = chosen.convert(files, images, output)
    click.echo(
        printable(f"{output}: {count} questions; evaluate them with --metric {chosen.metric}")
    )
