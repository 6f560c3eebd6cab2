"""Knows `pocketvlm evaluate`: what is asked of which artifact, and where figures and answers go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.lists import PATH, Comma
from pocketvlm.cli.options import guide_options
from pocketvlm.cli.target import capped, takes_target
from pocketvlm.cli.terminal import echo, echo_json, printable
from pocketvlm.files import real_path, user_path
from pocketvlm_measure.cli.options import case_options, chosen_metric, question_options
from pocketvlm_measure.cli.output import check_outputs, print_choice, write_text
from pocketvlm_measure.cli.target import evaluating_defaults
from pocketvlm_measure.evaluation.engines import ENGINES
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.public import BENCHMARKS

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.run import OnBroken
    from pocketvlm_measure.evaluation.summary import Summary

_STDOUT = "-"


@click.command(
    epilog="Example: pocketvlm evaluate my-artifact --data questions.jsonl --budget 576,144,64"
)
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--data",
    type=PATH,
    required=True,
    metavar="FILE.jsonl",
    help="The questions; see docs/evaluate.md.",
)
@click.option(
    "--metric",
    type=click.Choice(list(METRICS)),
    default="exact",
    show_default=True,
    help="What scores an answer.",
)
@case_options
@click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Threads of each engine; workers share the cores if not given.",
)
@click.option(
    "--memory-limit",
    type=click.IntRange(0),
    metavar="MB",
    help="Memory of each worker within which a pair of decoders is opened by default; the free "
    "memory if not given, 0 means no limit.",
)
@takes_target(evaluating_defaults)
@click.option(
    "--baseline",
    metavar="K|DIR",
    help="What each case is compared with: a budget, or another artifact, which answers too; the "
    "largest budget if not given.",
)
@guide_options
@question_options
@click.option(
    "--share-prefill",
    is_flag=True,
    help="Prefill a picture once for all questions about it; TTFT is then of the first one alone.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes, with a model in each.",
)
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default="local",
    show_default=True,
    help="Where the workers run; ray is a Ray cluster and needs pocketvlm[cluster].",
)
@click.option(
    "--answers",
    type=PATH,
    metavar="FILE",
    help="The file that keeps the answers; named after DIR and the data if not given.",
)
@click.option("--resume", is_flag=True, help="Continue with the answers in that file.")
@click.option(
    "--published",
    type=click.Choice(list(BENCHMARKS)),
    help="Add the figures that papers report for LLaVA-1.5-7B.",
)
@click.option(
    "--report",
    type=PATH,
    metavar="OUT.html",
    help="Write one web page with plots and changed answers.",
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
    max_pixels: int | None,
    max_tiles: int | None,
    providers: tuple[str, ...],
    threads: int | None,
    memory_limit: int | None,
    baseline: str | None,
    guide: Path | None,
    confidence: float | None,
    limit: int | None,
    max_new_tokens: int,
    broken: OnBroken,
    share_prefill: bool,
    workers: int,
    engine: str,
    answers: Path | None,
    resume: bool,
    published: str | None,
    report: Path | None,
    json_to: str | None,
) -> None:
    """Measure how many answers of the artifact in DIR are right, by budget, on a set of questions.

    Every combination of the lists answers every question, greedily. A picture or clip is encoded
    once for all its questions and budgets. Answers are kept in a file as they come: --resume
    continues where a run ended.
    """
    if guide is None and confidence is not None:
        raise click.UsageError("--confidence is the guide's: give --guide too")
    outputs = [
        path
        for path in (
            report,
            user_path(json_to) if json_to not in (None, _STDOUT) else None,
            answers,
        )
        if path
    ]
    check_outputs(outputs, [data])
    scored_by = chosen_metric(metric)

    from pocketvlm.artifact import Artifact
    from pocketvlm.layouts import counting_layout
    from pocketvlm_measure.cases import leaves_choice, sweep
    from pocketvlm_measure.evaluation.baselines import against, budget_named
    from pocketvlm_measure.evaluation.plan import guide_of, subjects
    from pocketvlm_measure.evaluation.precision import settled_precision
    from pocketvlm_measure.evaluation.questions import read_questions
    from pocketvlm_measure.evaluation.run import evaluate as run
    from pocketvlm_measure.evaluation.summary import summarise

    artifact = capped(Artifact.open(directory), max_pixels=max_pixels, max_tiles=max_tiles)
    counting_layout(artifact)  # what it refuses is refused before anything is asked
    budgets = Comma.without_all(budget, "--budget") or list(artifact.manifest.pruning.budgets)
    baseline_budget = budget_named(baseline)
    answers = answers or Path(f"answers-{data.stem}-{real_path(directory).name}.jsonl")
    chosen = None
    if leaves_choice(artifact.manifest, decoder, decoder_precision):
        chosen = settled_precision(
            artifact.manifest, answers if resume else None, memory_limit, workers
        )
    cases = sweep(
        artifact.manifest,
        budgets=budgets if baseline_budget is None else [*budgets, baseline_budget],
        decoders=decoder,
        decoder_precisions=decoder_precision,
        vision_precisions=vision_precision,
        threads=(threads,),
        max_pixels=artifact.max_pixels,
        max_tiles=artifact.max_tiles,
        providers=providers,
        chosen=chosen,
    )
    print_choice(chosen)
    by = guide_of(guide, confidence)
    asked = subjects(directory, artifact, cases, workers, by, shares_prefill=share_prefill)
    other = against(baseline, asked, workers)
    try:
        evaluation = run(
            read_questions(data, limit),
            [*asked, *other.subjects],
            scored_by,
            answers,
            ENGINES[engine](workers),
            resume=resume,
            on_broken=broken,
            max_new_tokens=max_new_tokens,
        )
    except KeyboardInterrupt:
        echo(f"\nanswers so far are in {answers}: continue with --resume", err=True)
        raise
    beside = None if published is None else BENCHMARKS[published].published
    _show(summarise(evaluation, other.of(evaluation), beside), json_to, report)


def _show(summary: Summary, json_to: str | None, report: Path | None) -> None:
    from pocketvlm_measure.evaluation.summary import to_dict
    from pocketvlm_measure.evaluation.tables import headline, notes, tables, warnings
    from pocketvlm_measure.machine import Machine

    machine = Machine.look(0).describe() if json_to or report else ""
    if report is not None:
        from pocketvlm_measure.evaluation.report import to_html

        write_text(report, to_html(summary, machine))
    if json_to is not None:
        data = to_dict(summary) | {"machine": machine}
        if json_to != _STDOUT:
            write_text(user_path(json_to), f"{json.dumps(data, ensure_ascii=False)}\n")
    if json_to == _STDOUT:
        echo_json(data)
    else:
        echo(printable(headline(summary)))
        for table in tables(summary):
            echo(f"\n{table.text()}")
        for note in notes(summary):
            echo(f"\n{printable(note)}")
    for warning in warnings(summary):
        echo(f"warning: {printable(warning)}", err=True)
