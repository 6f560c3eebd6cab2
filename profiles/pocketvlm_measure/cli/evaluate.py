"""Knows `pocketvlm evaluate`: what is asked of which artifact, and where figures and answers go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.lists import Comma
from pocketvlm.cli.target import takes_target
from pocketvlm.cli.terminal import printable
from pocketvlm_measure.cli.options import case_options
from pocketvlm_measure.cli.output import check_folders, printable_lines, write_text
from pocketvlm_measure.cli.target import case_defaults

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.run import OnBroken
    from pocketvlm_measure.evaluation.summary import Summary

_FILE = click.Path(path_type=Path)
_STDOUT = "-"
METRICS = ("exact", "vqa", "textvqa", "anls", "contains", "choice", "yesno-f1")
ENGINES = ("local", "ray")
PUBLISHED = ("vqav2", "gqa", "textvqa", "pope", "scienceqa")


@click.command(
    epilog="Example: pocketvlm evaluate my-artifact --data questions.jsonl --budget 576,144,64"
)
@click.argument("directory", metavar="DIR", type=_FILE)
@click.option(
    "--data",
    type=_FILE,
    required=True,
    metavar="FILE.jsonl",
    help="The questions; see docs/evaluate.md.",
)
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="exact",
    show_default=True,
    help="What scores an answer.",
)
@case_options
@click.option(
    "--threads", type=int, metavar="N", help="Of each engine; workers share the cores if not given."
)
@takes_target(case_defaults)
@click.option(
    "--baseline",
    metavar="K|DIR",
    help="What each is held against: a budget, or another artifact, which is asked too; the "
    "largest budget if not "
    "given.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Ask the first N questions.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=64, show_default=True, metavar="N"
)
@click.option(
    "--broken",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a broken line or picture does: end the run, or be left out and reported.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes, a model in each.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="local",
    show_default=True,
    help="Where they run; ray is a Ray cluster and needs pocketvlm[cluster].",
)
@click.option(
    "--answers",
    type=_FILE,
    metavar="FILE",
    help="Where answers are kept; named after DIR and the data if not given.",
)
@click.option("--resume", is_flag=True, help="Go on with the answers that are there.")
@click.option(
    "--published", type=click.Choice(PUBLISHED), help="Put papers' figures for LLaVA-1.5-7B beside."
)
@click.option(
    "--report",
    type=_FILE,
    metavar="OUT.html",
    help="Write one page with plots and changed answers.",
)
@click.option(
    "--json",
    "json_to",
    is_flag=False,
    flag_value=_STDOUT,
    metavar="[OUT.json]",
    help="Print one JSON object, or write it to a file.",
)
def evaluate(
    directory: Path,
    data: Path,
    metric: str,
    budget: tuple[int | str, ...],
    decoder: tuple[str, ...],
    decoder_precision: tuple[str, ...],
    vision_precision: tuple[str, ...],
    threads: int | None,
    baseline: str | None,
    limit: int | None,
    max_new_tokens: int,
    broken: OnBroken,
    workers: int,
    engine: str,
    answers: Path | None,
    resume: bool,
    published: str | None,
    report: Path | None,
    json_to: str | None,
) -> None:
    """Measure what the artifact in DIR answers: accuracy against budget on a set of questions.

    Every combination of the lists answers every question, greedily. A picture is encoded once for
    all its questions and budgets. Answers are kept as they come: --resume goes on where a run
    ended.
    """
    outputs = [
        path
        for path in (report, Path(json_to) if json_to not in (None, _STDOUT) else None, answers)
        if path
    ]
    check_folders(outputs)
    if report is not None:
        from pocketvlm_measure.reports.plots import check_plots

        check_plots()

    from pocketvlm.artifact import Artifact
    from pocketvlm_measure.cases import sweep
    from pocketvlm_measure.evaluation.baselines import against, budget_named
    from pocketvlm_measure.evaluation.engines import ENGINES as FOUND
    from pocketvlm_measure.evaluation.metrics import METRICS as SCORES
    from pocketvlm_measure.evaluation.plan import subjects
    from pocketvlm_measure.evaluation.questions import read_questions
    from pocketvlm_measure.evaluation.run import evaluate as run
    from pocketvlm_measure.evaluation.summary import summarise

    artifact = Artifact.open(directory)
    wanted = Comma.without_all(budget, "--budget") or list(artifact.manifest.pruning.budgets)
    held = budget_named(baseline)
    cases = sweep(
        artifact.manifest,
        budgets=wanted if held is None else [*wanted, held],
        decoders=decoder,
        decoder_precisions=decoder_precision,
        vision_precisions=vision_precision,
        threads=(threads,),
    )
    asked = subjects(directory, artifact, cases, workers)
    other = against(baseline, asked, workers)
    kept = answers or Path(f"answers-{data.stem}-{directory.resolve().name}.jsonl")
    try:
        found = run(
            read_questions(data, limit),
            [*asked, *other.subjects],
            SCORES[metric],
            kept,
            FOUND[engine](workers),
            resume=resume,
            on_broken=broken,
            max_new_tokens=max_new_tokens,
        )
    except KeyboardInterrupt:
        click.echo(f"\nanswers so far are in {kept}: --resume goes on", err=True)
        raise
    _show(summarise(found, other.of(found), published), json_to, report)


def _show(summary: Summary, json_to: str | None, report: Path | None) -> None:
    from pocketvlm_measure.evaluation.summary import to_dict
    from pocketvlm_measure.evaluation.tables import headline, notes, tables, warnings
    from pocketvlm_measure.machine import Machine

    machine = Machine.look(0).describe() if json_to or report else ""
    if report is not None:
        from pocketvlm_measure.evaluation.report import to_html

        write_text(report, to_html(summary, machine))
    if json_to is not None:
        text = json.dumps(to_dict(summary) | {"machine": machine}, ensure_ascii=False)
        if json_to != _STDOUT:
            write_text(Path(json_to), f"{text}\n")
    if json_to == _STDOUT:
        click.echo(text)
    else:
        click.echo(printable(headline(summary)))
        for table in tables(summary):
            click.echo(printable_lines(f"\n{table.text()}"))
        for note in notes(summary):
            click.echo(f"\n{printable(note)}")
    for warning in warnings(summary):
        click.echo(f"warning: {printable(warning)}", err=True)
