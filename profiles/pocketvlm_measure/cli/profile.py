"""Knows `pocketvlm profile`: what is measured, where the figures go, and how two measurements are
compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.lists import NUMBERS, PATH, SIZE, TEXT, Comma
from pocketvlm.cli.target import capped, takes_target
from pocketvlm.cli.terminal import echo, echo_json, printable
from pocketvlm.errors import RequestError
from pocketvlm_measure.cli.options import case_options
from pocketvlm_measure.cli.output import check_outputs, print_choice, write_text
from pocketvlm_measure.cli.target import profiling_defaults

if TYPE_CHECKING:
    from pocketvlm.artifact import Artifact
    from pocketvlm_measure.profiler.result import Profile


@click.command(
    epilog="Example: pocketvlm profile my-artifact --image photo.jpg --budget 576,144,64"
)
@click.argument("directory", metavar="[DIR]", type=PATH, required=False)
@click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    type=PATH,
    help="A picture; noise if none is given.",
)
@click.option(
    "--video",
    "videos",
    metavar="FILE",
    multiple=True,
    type=PATH,
    help="A clip, for models that read clips; noise if none is given.",
)
@click.option(
    "--picture-size",
    type=SIZE,
    metavar="WxH",
    help="Instead of --image or --video: noise of so many pixels, width first; by default the size "
    "that takes the most tiles or tokens.",
)
@click.option(
    "--prompt", type=TEXT, metavar="TEXT", help="The question; 40 text tokens if not given."
)
@case_options
@click.option(
    "--threads", type=NUMBERS, default=(None,), metavar="N[,N...]", help="Threads of each engine."
)
@click.option(
    "--context",
    type=int,
    metavar="N",
    help="Longest sequence in tokens, at most the artifact's own.",
)
@click.option(
    "--memory-limit",
    type=click.IntRange(0),
    metavar="MB",
    help="Warn above so much memory, and open a pair of decoders by default only within it; 0 "
    "means no limit.",
)
@takes_target(profiling_defaults)
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    metavar="N",
    help="Runs per configuration.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="Answers before each measured run.",
)
@click.option(
    "--new-tokens",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    metavar="N",
    help="Tokens to generate.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Write the figures: .jsonl with llama-bench's keys and every sample, .csv, or .md for the "
    "tables.",
)
@click.option(
    "--report",
    type=PATH,
    metavar="OUT.html",
    help="Write one web page with plots and kept patches.",
)
@click.option(
    "--compare",
    nargs=2,
    type=PATH,
    metavar="A.jsonl B.jsonl",
    help="Compare two outputs instead of measuring.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def profile(
    directory: Path | None,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    picture_size: tuple[int, int] | None,
    prompt: str | None,
    budget: tuple[int | str, ...],
    decoder: tuple[str, ...],
    decoder_precision: tuple[str, ...],
    vision_precision: tuple[str, ...],
    max_pixels: int | None,
    max_tiles: int | None,
    providers: tuple[str, ...],
    threads: tuple[int | None, ...],
    context: int | None,
    memory_limit: int | None,
    repeat: int,
    warmup: int,
    new_tokens: int,
    outputs: tuple[Path, ...],
    report: Path | None,
    compare: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Measure what the artifact in DIR costs here: time by stage and memory, beside estimates by
    formula.

    Every combination of the lists is measured, in interleaved turns, each run in a new process. All
    runs generate the same number of tokens, and all samples count. Ctrl-C ends the measurement and
    keeps its results so far.
    """
    if (directory is None) == (compare is None):
        raise click.UsageError("give either DIR, to measure it, or --compare with two files")
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    assert directory is not None
    if (images or videos) and picture_size is not None:
        option = "--image" if images else "--video"
        raise click.UsageError(f"{option} has a size of its own: leave --picture-size out")
    writers = {path: _writer(path) for path in outputs}
    check_outputs([*outputs, *([report] if report else [])], [*images, *videos])

    from pocketvlm.answering import without_guide
    from pocketvlm.artifact import Artifact
    from pocketvlm.artifact.pair import choose_precision
    from pocketvlm.text.prompts import Counts
    from pocketvlm_measure.cases import leaves_choice, sweep
    from pocketvlm_measure.profiler.measure import profile as measure
    from pocketvlm_measure.profiler.questions import Question, made_up_prompt

    whole = Artifact.open(directory)
    artifact = whole.shortened(context)
    if artifact.manifest.decoder.reads_scores:
        raise without_guide()
    artifact = capped(artifact, max_pixels=max_pixels, max_tiles=max_tiles)
    chosen = None
    if leaves_choice(artifact.manifest, decoder, decoder_precision):
        chosen = choose_precision(artifact.manifest, "onnx", memory_limit)
    cases = sweep(
        artifact.manifest,
        budgets=Comma.without_all(budget, "--budget"),
        decoders=decoder,
        decoder_precisions=decoder_precision,
        vision_precisions=vision_precision,
        threads=threads,
        context=context,
        max_pixels=artifact.max_pixels,
        max_tiles=artifact.max_tiles,
        providers=providers,
        chosen=chosen,
    )
    for case in cases:  # before anything is timed
        case.ensure_trusted(whole)
    print_choice(chosen)
    pictures, clips = (tuple(str(path) for path in paths) for paths in (images, videos))
    counts: Counts = {"image": len(images), "video": len(videos)} if images or videos else 1
    asked = prompt or made_up_prompt(artifact, counts)
    question = Question(asked, pictures, new_tokens, picture_size, clips)

    def save(so_far: Profile) -> None:
        for path, to_text in writers.items():
            write_text(path, to_text(so_far))

    measured = measure(
        artifact,
        cases,
        question,
        repeat=repeat,
        warmup=warmup,
        memory_limit=memory_limit,
        after_turn=save,
    )
    if measured.results:
        _show(measured, artifact, report, as_json)
    if measured.interrupted:
        raise KeyboardInterrupt


def _show(measured: Profile, artifact: Artifact, report: Path | None, as_json: bool) -> None:
    from pocketvlm_measure.profiler.rows import to_dict
    from pocketvlm_measure.profiler.tables import headline, notes, tables

    if report is not None:
        from pocketvlm_measure.profiler.report import to_html

        write_text(report, to_html(measured, artifact))
    if as_json:
        echo_json(to_dict(measured))
    else:
        echo(printable(headline(measured)))
        for table in tables(measured):
            echo(f"\n{table.text()}")
        echo()
        for note in notes(measured):
            echo(printable(note))
    for warning in measured.warnings():
        echo(f"warning: {printable(warning)}", err=True)


def _compare(a: Path, b: Path, *, as_json: bool) -> None:
    import dataclasses

    from pocketvlm_measure.profiler.compare import compare, comparison_table

    comparisons, differences = compare(a, b)
    if as_json:
        rows = [dataclasses.asdict(item) | {"verdict": item.verdict} for item in comparisons]
        echo_json({"a": str(a), "b": str(b), "differences": differences, "results": rows})
        return
    echo(comparison_table(comparisons).text())
    for difference in differences:
        echo(f"warning: measured under other conditions: {printable(difference)}", err=True)


def _writer(path: Path) -> Callable[[Profile], str]:
    """The function that makes the text of an output file, by the file's suffix."""
    from pocketvlm_measure.profiler import rows, tables

    def to_markdown(measured: Profile) -> str:
        parts = [
            tables.headline(measured),
            *(table.markdown() for table in tables.tables(measured)),
            *tables.notes(measured),
        ]
        return "\n\n".join(parts) + "\n"

    writers: dict[str, Callable[[Profile], str]] = {
        ".jsonl": rows.to_jsonl,
        ".csv": rows.to_csv,
        ".md": to_markdown,
    }
    if path.suffix not in writers:
        raise RequestError(
            f"{path} ends in {path.suffix or 'no suffix'}",
            expected=" or ".join(writers),
            setting="output",
        )
    return writers[path.suffix]
