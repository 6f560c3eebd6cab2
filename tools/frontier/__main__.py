"""The frontier of accuracy against the time to first token: ``PYTHONPATH=tools python -m
frontier``.

Accuracy is the demo's, or that of another checkpoint on question sets of its own, through its
artifacts: stages are chosen on questions of the training split and reported on held-out ones.
Times are of a tower and a decoder of real dimensions with random weights, at the same parts of
depth and tokens. What lies in BUILD is not made again, so that an interrupted run continues. Times
want a machine where nothing else runs, all the rest does not mind: ``--parts accuracy,graphs``
first, everything then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from benchmark.interleave import check_quiet
from frontier import accuracy, grid, models, points
from frontier.plot import draw
from frontier.settings import Dimensions, Setting
from frontier.timing import Stopwatch
from make_checkpoint import PRESETS
from page_section import replace_section
from pocketvlm.cli.lists import NAMES, NUMBERS, Comma
from pocketvlm.files import replace_file
from pocketvlm_measure.evaluation.questions import QuestionSet

_PATH = click.Path(path_type=Path)
_PARTS = ("accuracy", "graphs", "time")
_STAGES = ("tower", "decoder")
_NONE = "none"
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _one_of(*names: str) -> Callable[[str], str]:
    def checked(name: str) -> str:
        if name not in names:
            raise ValueError(name)
        return name

    return checked


@click.command(help=__doc__)
@click.option("--build", type=_PATH, default=Path("build/frontier"), show_default=True)
@click.option("--model", default=accuracy.DEMO, show_default=True, help="A checkpoint's folder.")
@click.option("--test-set", type=_FILE, help="Held-out questions; the demo's are drawn.")
@click.option("--training-set", type=_FILE, help="Questions that stages are chosen by, likewise.")
@click.option("--decoder-precision", default="fp32", show_default=True, help="Of answers.")
@click.option("--questions", default=1_000, show_default=True, help="Held-out, of the test split.")
@click.option("--training", default=300, show_default=True, help="Those that stages are chosen by.")
@click.option("--budgets", type=NUMBERS, help="Visual tokens; by default 50, 25, 10 and 5 %.")
@click.option("--only", type=NAMES, default=(), help="Methods; all by default.")
@click.option(
    "--stages",
    type=Comma("stages", _one_of(*_STAGES, _NONE)),
    default=_STAGES,
    show_default=True,
    help="Where stages are tried, or none.",
)
@click.option(
    "--crossed",
    default=grid.CHOSEN,
    show_default=True,
    help="Tower plans that every method is measured with.",
)
@click.option(
    "--sizes",
    type=NUMBERS,
    help="Edges of smaller pictures, in pixels; with the default method, and unpruned. By default "
    "four parts of the checkpoint's own; 0 for none.",
)
@click.option("--workers", default=1, show_default=True, help="Processes, but for times.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="clip-l-qwen2-0.5b")
@click.option("--repeat", default=5, show_default=True, help="Turns that count.")
@click.option("--threads", default=2, show_default=True, help="Threads of each engine.")
@click.option("--allow-busy", is_flag=True, help="Take times although something else runs.")
@click.option(
    "--parts", type=Comma("parts", _one_of(*_PARTS)), default=_PARTS, help="Of the three."
)
@click.option("--page", type=_PATH, help="Write the table between this file's markers.")
@click.option("--section", default="frontier", show_default=True, help="Which markers.")
@click.option("--figures", type=_PATH, help="Write the points as JSON.")
@click.option("--plot", type=_PATH, help="Draw them, as SVG.")
def main(
    build: Path,
    model: str,
    test_set: Path | None,
    training_set: Path | None,
    decoder_precision: str,
    questions: int,
    training: int,
    budgets: tuple[int, ...] | None,
    only: tuple[str, ...],
    stages: tuple[str, ...],
    crossed: int,
    sizes: tuple[int, ...] | None,
    workers: int,
    preset: str,
    repeat: int,
    threads: int,
    allow_busy: bool,
    parts: tuple[str, ...],
    page: Path | None,
    section: str,
    figures: Path | None,
    plot: Path | None,
) -> None:
    """Measure, print, and write where asked."""
    here, default = Dimensions.of(model), grid.default_method(model)
    sets = {"test": test_set, "train": training_set}
    named = tuple((split, path) for split, path in sets.items() if path)
    bench = accuracy.Bench(build, model, named, decoder_precision)
    budgets = budgets or grid.budgets_of(here)
    sizes = tuple(filter(None, grid.sizes_of(here) if sizes is None else sizes))
    data = bench.questions("test", questions)
    chosen = []
    if stages != (_NONE,):
        choosing = bench.questions("train", training)
        training = len(choosing.questions)
        chosen = _choose(bench, default, choosing, budgets, workers, here, stages)
    for one in chosen:
        click.echo(
            f"{one.setting.stages}: {100 * one.accuracy:.1f} % of the training split's questions, "
            f"{one.work:.2f} of the work"
        )
    staged = [one.setting for one in chosen]
    wanted = _wanted(default, grid.methods(only), staged, budgets, sizes, here, crossed)
    results = accuracy.measure(bench, data, wanted, workers)
    refused = accuracy.export_all(bench, wanted, workers)
    for setting, reason in refused.items():
        click.echo(f"left out: {setting.name}: {reason}", err=True)
    every, about = [points.point(result, here) for result in results], ""
    if set(parts) & {"graphs", "time"}:
        real = models.real(build / "models", preset)
        there, whole = real.dimensions, grid.unpruned()
        of = [points.parts(result, here, there, whole) for result in results]
        real.build_all([*_towers(real, of), *_decoders(real, of)], workers)
        if "time" in parts:
            line = check_quiet(allow_busy)
            watch = Stopwatch(build / "times.json", real, whole, repeat, threads)
            every = points.timed(results, of, watch, here)
            about = f"{threads} threads, {repeat} interleaved turns; {line}; {watch.machine}"
    text = _page_text(every, here, len(data.questions), training, preset, about, plot)
    click.echo(text)
    if plot and about:
        replace_file(plot, draw(every))
    if page:
        replace_section(page, section, text)
    if figures:
        points.save(figures, every, {"questions": questions, "training": training, "times": about})


def _towers(real: models.Models, of: list[points.Parts]) -> list[Callable[[], Path]]:
    """What makes the vision graphs, each once."""
    every = dict.fromkeys((one.vision, one.budget) for one in of)
    return [partial(real.export_tower, vision, budget) for vision, budget in every]


def _decoders(real: models.Models, of: list[points.Parts]) -> list[Callable[[], Path]]:
    """What makes the decoder graphs."""
    every = dict.fromkeys(one.decoder for one in of)
    return [partial(real.export_decoder, decoder) for decoder in every]


def _choose(
    bench: accuracy.Bench,
    method: Setting,
    data: QuestionSet,
    budgets: tuple[int, ...],
    workers: int,
    here: Dimensions,
    where: Sequence[str],
) -> list[grid.Tried]:
    """Stages by the training split: for the tower, of the default method, the best of each way to
    choose rows, the best of all first; for the decoder those that none beats."""
    chosen: list[list[grid.Tried]] = []
    for part, candidates, asked in (
        ("tower", grid.tower_candidates(method, here), budgets),
        ("decoder", grid.decoder_candidates(here), (here.tokens,)),
    ):
        allowed = {one: one.allowed(asked) for one in candidates if part in where}
        if not allowed:
            chosen.append([])
            continue
        accuracy.export_all(bench, list(allowed.items()), workers)
        # All are compared at the budgets that each can have.
        common = sorted(set(asked).intersection(*allowed.values()), reverse=True)
        results = accuracy.measure(bench, data, [(one, common) for one in allowed], workers)
        chosen.append(grid.tried(accuracy.means(results, common), here))
    return [*grid.best_of_each(chosen[0]), *grid.undominated(chosen[1])]


def _wanted(
    default: Setting,
    methods: list[Setting],
    staged: list[Setting],
    budgets: tuple[int, ...],
    sizes: tuple[int, ...],
    here: Dimensions,
    crossed: int,
) -> list[tuple[Setting, list[int]]]:
    """All methods; all of them with the ``crossed`` best tower stages; the default one with all
    stages, and of smaller pictures; and the unpruned one, with and without stages of the decoder,
    and of smaller pictures."""
    towers = [one for one in staged if one.tower]
    decoders = [one for one in staged if one.decoder]
    settings = [*methods]
    settings += [replace(one, tower=best.tower) for one in methods for best in towers[:crossed]]
    if default in methods:
        settings += [*towers, *(replace(default, decoder=one.decoder) for one in decoders)]
        settings += [replace(default, image_size=size) for size in sizes]
    wanted = [(one, one.allowed(budgets, here)) for one in dict.fromkeys(settings)]
    smaller = [replace(grid.unpruned(), image_size=size) for size in sizes]
    whole = [
        (one, [here.tokens_at(one.image_size)]) for one in (grid.unpruned(), *smaller, *decoders)
    ]
    return [*whole, *((one, allowed) for one, allowed in wanted if allowed)]


def _page_text(
    every: list[points.Point],
    here: Dimensions,
    questions: int,
    training: int,
    preset: str,
    about: str,
    plot: Path | None,
) -> str:
    lines = [
        f"Exact match in per cent on {questions} held-out questions by the share of visual tokens "
        "kept, with 95 % intervals."
    ]
    if any(one.stages for one in every):
        lines[0] += (
            " With stages, the brackets hold p of McNemar's exact test against the same method at "
            "the same share without stages. Stages are LAYER:KEEP:BY, chosen on "
            f"{training} questions of the training split. There are {here.tower} layers in the "
            f"tower, {here.decoder} in the decoder and {here.tokens} tokens; pixels are edges of "
            f"pictures read smaller than at its own {here.size}."
        )
    if about:
        lines[0] += (
            " Times are TTFT relative to the unpruned model's, with int8 tower and int8 decoder of "
            f"`{preset}` at the same shares of depth and tokens. Bold is what no other beats in "
            f"both. {about}."
        )
        if plot:
            lines += ["", f"![Accuracy against time to first token]({plot.name})"]
    return "\n".join([*lines, "", points.table(every)])


if __name__ == "__main__":
    main()
