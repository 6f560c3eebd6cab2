"""Knows `pocketvlm tune`: which settings are tried on which questions, within which limits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.lists import BUDGETS_OR_ALL, MEGABYTES, NAMES, PATH, Comma
from pocketvlm.cli.options import cap_options, provider_option
from pocketvlm.cli.target import capped, takes_target
from pocketvlm.cli.terminal import echo, echo_json, printable
from pocketvlm.files import real_path, user_path
from pocketvlm_measure.cli.options import chosen_metric, question_options
from pocketvlm_measure.cli.output import check_outputs
from pocketvlm_measure.cli.target import tuning_defaults
from pocketvlm_measure.cli.tune_checkpoint import holds_artifact, of_checkpoint
from pocketvlm_measure.cli.tune_options import (
    asked_without_answers,
    asking_options,
    check_folder_options,
    exporting_options,
    refuse_together,
    wishes_of,
    writing_options,
)
from pocketvlm_measure.cli.tune_outputs import About, Outputs, Recalled, kept
from pocketvlm_measure.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.run import OnBroken
    from pocketvlm_measure.tune.tuning import Candidate, Tuning

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", re.ASCII)


class _Duration(click.ParamType):
    """A time as in ``90s``, ``10m`` or ``1h30m``; a number alone is seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it; 0 is refused."""
        match = _DURATION.fullmatch(str(value)[:20])
        parts = match.groups(default="0") if match else ()
        seconds = sum(int(part) * unit for part, unit in zip(parts, _UNITS.values(), strict=False))
        if not seconds:
            self.fail(f"{value!r} is not a time, as in 90s, 10m or 1h30m", param, ctx)
        return seconds


@click.command(
    cls=Recalled,
    epilog="Example: pocketvlm tune my-artifact --data questions.jsonl --max-loss 2 --max-ttft 400",
)
@click.argument("model", metavar="DIR|MODEL")
@click.option(
    "--data",
    type=PATH,
    metavar="FILE.jsonl",
    help="The questions, with answers; see docs/evaluate.md.",
)
@asking_options
@click.option(
    "--metric",
    type=click.Choice(list(METRICS)),
    default="exact",
    show_default=True,
    help="What scores an answer.",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 100),
    default=2.0,
    show_default=True,
    metavar="POINTS",
    help="Largest loss of accuracy, in percentage points.",
)
@click.option(
    "--max-ttft",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Largest time to first token of any timed run, in milliseconds.",
)
@click.option(
    "--max-memory",
    type=MEGABYTES,
    metavar="MB",
    help="Largest peak memory of any timed run's process.",
)
@click.option(
    "--time",
    type=_Duration(),
    default="10m",
    show_default=True,
    metavar="10m",
    help="How long this may take.",
)
@click.option(
    "--error",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=5.0,
    show_default=True,
    metavar="PER_CENT",
    help="Chance that any decision on accuracy is wrong, over the whole tuning.",
)
@click.option("--shown", is_flag=True, help="Choose only what is shown to lose no more.")
@click.option(
    "--budget",
    type=BUDGETS_OR_ALL,
    default=("all",),
    metavar="all|K[,K...]",
    help="Visual tokens per picture; if not given the exported budgets, and halvings of the "
    "largest if its graph serves them.",
)
@click.option(
    "--decoder",
    type=NAMES,
    default=(),
    metavar="all|NAME[,...]",
    help="Decoder engines; if not given all of a folder, and onnx for a checkpoint.",
)
@click.option(
    "--decoder-precision",
    type=NAMES,
    default=(),
    metavar="all|P[,P...]",
    help="Precisions of the decoder; all if not given.",
)
@click.option(
    "--vision-precision",
    type=NAMES,
    default=(),
    metavar="all|P[,P...]",
    help="Precisions of the vision graph; all if not given.",
)
@cap_options
@click.option("--threads", type=int, metavar="N", help="Threads of each engine.")
@provider_option
@exporting_options
@takes_target(tuning_defaults)
@question_options
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that answer, with a model in each; times are taken one by one.",
)
@click.option(
    "--answers",
    type=PATH,
    metavar="FILE.jsonl",
    help="The file that keeps the answers, with one for times beside it; named after DIR and the "
    "data if not given.",
)
@click.option("--resume", is_flag=True, help="Continue with these files.")
@writing_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tune(
    model: str,
    data: Path | None,
    pictures: Path | None,
    questions: Path | None,
    agreement: str,
    pairs: int | None,
    metric: str,
    max_loss: float,
    max_ttft: float | None,
    max_memory: float | None,
    time: float,
    error: float,
    shown: bool,
    budget: tuple[int | str, ...],
    decoder: tuple[str, ...],
    decoder_precision: tuple[str, ...],
    vision_precision: tuple[str, ...],
    max_pixels: int | None,
    max_tiles: int | None,
    threads: int | None,
    providers: tuple[str, ...],
    method: tuple[str, ...],
    tower_stage: tuple[tuple[str, ...], ...],
    image_sizes: tuple[tuple[int, int], ...],
    portable: bool,
    exports: Path | None,
    limit: int | None,
    max_new_tokens: int,
    broken: OnBroken,
    workers: int,
    answers: Path | None,
    resume: bool,
    report: Path | None,
    write_target: Path | None,
    export: Path | None,
    as_json: bool,
) -> None:
    """Choose the setting of the artifact in DIR with the shortest time to first token that keeps
    its accuracy on a set of questions. For a checkpoint, MODEL, candidates are exported first.

    All settings are timed in a few interleaved turns, and those that break a limit are ruled out.
    The fastest of the others answer questions until a sequential test decides whether they lose
    more than --max-loss. The baseline is the most tokens in the most exact precision. Answers and
    times are kept as they come: --resume continues where a run ended.
    """
    asked = asked_without_answers(data, pictures, questions, pairs)
    if asked is not None:
        refuse_together("metric", "limit", reason="is for --data")
    file = data or questions or Path()
    outputs = Outputs(report, write_target, export)
    outputs.check([file])
    answers = answers or Path(f"tuning-{file.stem}-{real_path(user_path(model)).name}.jsonl")
    scored_by = chosen_metric(metric)

    from pocketvlm_measure.evaluation.engines import ENGINES
    from pocketvlm_measure.evaluation.questions import read_questions
    from pocketvlm_measure.machine import Machine
    from pocketvlm_measure.tune.agreement import FIGURE, FIGURE_PRUNED
    from pocketvlm_measure.tune.agreement import METRICS as AGREEMENTS
    from pocketvlm_measure.tune.candidates import baseline_among, thinned
    from pocketvlm_measure.tune.exporting import Exporting
    from pocketvlm_measure.tune.measured import Asking, Measured, times_beside
    from pocketvlm_measure.tune.search import tune as search
    from pocketvlm_measure.tune.tuning import TuneLimits

    check_outputs([answers, times_beside(answers)], [file])
    limits = TuneLimits(max_loss, max_ttft, max_memory, time, error / 100, shown)
    asking = Asking(
        asked.questions if asked else read_questions(file, limit),
        scored_by if asked is None else AGREEMENTS[agreement](),
        answers,
        ENGINES["local"](workers),
        workers,
        resume,
        broken,
        max_new_tokens,
        agreement=asked is not None,
    )
    wishes: dict[str, Any] = {
        "budget": Comma.without_all(budget, "--budget"),
        "decoder": decoder,
        "decoder_precision": decoder_precision,
        "vision_precision": vision_precision,
        "max_pixels": max_pixels,
        "max_tiles": max_tiles,
    }
    checkpoint = None
    if holds_artifact(model):
        check_folder_options("method", "tower_stage", "image_sizes", "portable", "exports")
        every, whole = _in_folder(user_path(model), threads=threads, providers=providers, **wishes)
    else:
        wishes |= {"image_sizes": image_sizes, "portable": portable}
        wishes = wishes_of(method=method, tower_stage=tower_stage, **wishes)
        checkpoint = of_checkpoint(model, wishes, exports, threads, decoder_precision, providers)
        every, whole = checkpoint.candidates, checkpoint.tokens
    baseline = baseline_among(every)
    candidates, note = thinned(every, baseline)
    notes = [note] if note else []
    pruned = baseline.case.budget < whole
    figure = FIGURE_PRUNED if pruned else FIGURE
    notes += [asked.noted(figure)] if asked else []
    notes += checkpoint.notes if checkpoint else []
    if pruned:
        notes.append(
            f"losses are against {baseline.case.budget} of {whole} tokens: the folder holds no more"
        )
    if checkpoint:
        limits = checkpoint.begin(baseline, limits)
    with Measured(baseline, candidates, asking) as source:

        def say(line: str) -> None:
            minutes, seconds = divmod(max(0, round(limits.time - source.clock())), 60)
            echo(f"[{minutes}:{seconds:02} left] {line}", err=True)

        say(f"baseline: {printable(str(baseline))}")
        measured = Exporting(source, checkpoint.exports) if checkpoint else source
        try:
            tuning = search(measured, limits, say, notes)
        except KeyboardInterrupt:
            echo(f"\nanswers and times are kept: continue with --resume ({answers})", err=True)
            raise
        skipped = source.skipped
    tuning = replace(tuning, pruned=pruned, figure=figure if asked else tuning.figure)
    machine = Machine.look(0).describe()
    _show(tuning, file, machine, as_json)
    for line in kept(answers, tuning):
        echo(printable(line), err=True)
    for item in skipped[:5]:
        echo(f"warning: left out: line {item.line}: {printable(item.reason)}", err=True)
    stated = checkpoint.memory_limit(tuning) if checkpoint else None
    about = About(model, machine, memory_limit=stated)
    for line in outputs.write(tuning, about):
        echo(printable(line), err=True)
    if tuning.chosen is None:
        from pocketvlm_measure.tune.tables import refusal

        raise refusal(tuning)


def _in_folder(
    folder: Path,
    *,
    budget: list[int],
    decoder: tuple[str, ...],
    decoder_precision: tuple[str, ...],
    vision_precision: tuple[str, ...],
    max_pixels: int | None,
    max_tiles: int | None,
    threads: int | None,
    providers: tuple[str, ...],
) -> tuple[list[Candidate], int]:
    """What an artifact holds, and the visual tokens of a picture before pruning."""
    from pocketvlm.answering import without_guide
    from pocketvlm.artifact import Artifact
    from pocketvlm_measure.tune.candidates import candidates_in

    artifact = capped(Artifact.open(folder), max_pixels=max_pixels, max_tiles=max_tiles)
    if artifact.manifest.decoder.reads_scores:
        raise without_guide()
    every = candidates_in(
        folder,
        artifact,
        budgets=budget,
        decoders=decoder,
        decoder_precisions=decoder_precision,
        vision_precisions=vision_precision,
        threads=threads,
        providers=providers,
    )
    return every, artifact.manifest.pruning.tokens_before


def _show(tuning: Tuning, data: Path, machine: str, as_json: bool) -> None:
    from pocketvlm_measure.tune.tables import choice, headline, outcome, ruled_out, table, to_dict

    if as_json:
        echo_json(to_dict(tuning) | {"data": str(data), "machine": machine})
        return
    for line in (*choice(tuning), headline(tuning, data.name)):
        echo(printable(line))
    echo(f"\n{table(tuning).text()}\n")
    for line in (*ruled_out(tuning), "", *outcome(tuning)):
        echo(printable(line))
    echo(f"\n{printable(machine)}")
