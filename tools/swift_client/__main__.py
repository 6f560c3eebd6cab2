"""The Swift client, compiled and run: ``PYTHONPATH=tools python -m swift_client``.

Fetches Debian's Swift compiler once (half a gigabyte), compiles `clients/ios` against stubs of its
libraries, warnings as errors, and compares it with the Python runtime. It covers every question
about the three example scenes at two budgets, further questions, cancelled answers, a device that
computes wrongly, pictures against Pillow, and models of other layouts. ONNX Runtime and tokenizers
are the real ones, behind a pipe. Needs apt, dpkg-deb and chroot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import click
from PIL import Image

from make_checkpoint import HUB_PRESETS, PRESETS, make_checkpoint
from make_checkpoint.output import new_folder
from pocketvlm.artifact.stages import Stage
from pocketvlm_export import ExportOptions, export
from pocketvlm_measure.evaluation.questions import Question, read_questions
from swift_client import checks
from swift_client.build import build, check_against_the_pod
from swift_client.jobs import Client
from swift_client.toolchain import SwiftError, Toolchain

EXAMPLES = Path(__file__).parents[2] / "examples"
BUDGET, SMALLER = 36, 7


@dataclass(frozen=True)
class Other:
    """A model of random weights, and what of it the client has to do otherwise.

    Attributes:
        preset: of `make_checkpoint`.
        options: of its export.
        budgets: that are asked for.
    """

    preset: str
    options: ExportOptions
    budgets: tuple[int, ...] = (6, 3)


_SIX = ExportOptions(budgets=(6,))
OTHERS = {
    "tiles": Other("tiny-internvl", _SIX),
    "rows and columns as positions": Other("tiny-qwen2-vl", _SIX),
    "named tiles": Other("tiny-smolvlm", _SIX),
    "further features": Other("tiny-qwen3-vl", _SIX),
    "pictures that see themselves": Other("tiny-gemma3", ExportOptions(budgets=(4,)), (4, 3)),
    "prompts that see themselves": Other("tiny-paligemma", _SIX),
    "convolutions": Other("tiny-lfm2-vl", ExportOptions(budgets=(6,), layout="whole")),
    "stages": Other("tiny-llama", ExportOptions("none", decoder_stages=(Stage(1, 5),)), (36,)),
}
WHAT = "What is in the picture?"


@click.command(help=__doc__)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build/swift"),
    help="Where to export.",
)
@click.option("--mirror", help="URI of a Debian archive; apt's own if not given.")
@click.option("--questions", "most", type=int, help="Only so many of the questions.")
@click.option("--others/--no-others", default=True, help="Models of other layouts too.")
def main(folder: Path, mirror: str | None, most: int | None, others: bool) -> None:
    """Compile, run, compare; exit 1 on a difference."""
    toolchain = Toolchain.fetched(mirror=mirror)
    try:
        client = Client(toolchain, build(toolchain))
        check_against_the_pod(toolchain)
    except SwiftError as error:
        raise SystemExit(str(error)) from error
    click.echo("compiled without warnings")
    questions = list(read_questions(EXAMPLES / "questions.jsonl", most).questions)
    rows = chain(demo(client, folder, questions), other_layouts(client, folder) if others else ())
    failed = False
    for row in rows:
        click.echo(str(row))
        failed |= row.same != row.asked
    raise SystemExit(int(failed))


def demo(client: Client, folder: Path, questions: list[Question]) -> Iterator[checks.Row]:
    """The demo in float32."""
    artifact = folder / "demo"
    options = ExportOptions(
        budgets=(BUDGET,), vision_precisions=("fp32",), decoder_precisions=("fp32",), overwrite=True
    )
    export("demo", artifact, options)
    scenes = sorted(EXAMPLES.glob("scene-*.png"))
    yield from checks.resized(client, scenes)
    yield from checks.answers(client, artifact, questions, (BUDGET, SMALLER))
    yield from checks.conversations(client, artifact, questions[::4])
    yield from checks.self_tests(client, artifact, questions[0])
    yield from checks.refusals(client, artifact, questions[0])


def other_layouts(client: Client, folder: Path) -> Iterator[checks.Row]:
    """Random weights: wide, tall and square pictures, as many tokens as the model gives."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (width, height) in enumerate([(220, 90), (90, 200), (160, 160)]):
        with Image.open(EXAMPLES / f"scene-{number + 1}.png") as scene:
            paths.append(pictures / f"{number}.png")
            scene.convert("RGB").resize((width, height)).save(paths[-1])
    questions = [Question(1, "", WHAT, ("",), (str(path),)) for path in paths]
    for name, other in OTHERS.items():
        checkpoint, artifact = folder / f"{other.preset}-checkpoint", folder / other.preset
        if not checkpoint.exists():
            with new_folder(checkpoint) as made:
                make_checkpoint(HUB_PRESETS.get(other.preset) or PRESETS[other.preset], made)
        if not artifact.exists():
            export(str(checkpoint), artifact, other.options)
        for row in checks.answers(client, artifact, questions, other.budgets):
            yield replace(row, check=f"{name}: {row.check}")


if __name__ == "__main__":
    main()
