"""The Kotlin client, compiled and run: ``PYTHONPATH=tools python -m kotlin``.

Fetches the compiler from PyPI once, compiles clients/android against stubs of ONNX Runtime, DJL and
Android, and lets the library answer the 21 questions about the example scenes from the demo in
float32. The stub of ONNX Runtime hands tensors to the real one in a child process. Every answer
must have the tokens that PocketVLM's own runtime gives. Needs a JDK; no phone is tried.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import click

from kotlin.client import Kotlin, Refused
from kotlin.compiler import CompileError, compiled, fetch, missing
from make_checkpoint import HUB_PRESETS, PRESETS, make_checkpoint
from pocketvlm import VLM, Sampling
from pocketvlm.media.pictures import open_picture
from pocketvlm_export import ExportOptions, export
from pocketvlm_measure.evaluation.questions import read_questions

EXAMPLES = Path(__file__).parents[2] / "examples"
BUDGET, SMALLER, STEPS = 36, 7, 32
# Tiles, parts with names, M-RoPE with further features, attention both ways, and convolutions that
# read tiles of two sizes.
FAMILIES = ("tiny-internvl", "tiny-smolvlm", "tiny-qwen3-vl", "tiny-gemma3", "tiny-lfm2-vl")
WHAT = "What is in the picture?"
_FEW = Sampling(max_new_tokens=8)


@dataclass(frozen=True)
class Row:
    """One check: how many answers are as they should be, of how many."""

    what: str
    right: int
    asked: int

    def __str__(self) -> str:
        """A line of the report."""
        return f"{self.right:3} of {self.asked:3}  {self.what}"


class _Asked:
    """The questions, and what PocketVLM's own runtime answers."""

    def __init__(self, artifact: Path) -> None:
        self.vlm = VLM.load(artifact, vision_precision="fp32", decoder_precision="fp32")
        listed = read_questions(EXAMPLES / "questions.jsonl").questions
        self.questions = [(Path(each.images[0]), each.text) for each in listed]

    def tokens(self, budget: int) -> list[list[int]]:
        """Token ids of each answer."""
        sampling = Sampling(max_new_tokens=STEPS)
        return [
            list(self.vlm.generate(text, [path], budget=budget, sampling=sampling).token_ids)
            for path, text in self.questions
        ]


@click.command(help=__doc__)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build/kotlin"),
    help="Where to export.",
)
@click.option(
    "--families/--no-families", default=True, help="Ask models of other families too, in minutes."
)
def main(folder: Path, families: bool) -> None:
    """Fetch, compile, export, ask, compare; exit 1 on a difference."""
    started = time.perf_counter()
    fetch()
    if reason := missing():
        raise click.ClickException(reason)
    try:
        compiled()
    except CompileError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"compiled without warnings ({time.perf_counter() - started:.0f} s)")
    artifact = folder / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    export("demo", artifact, ExportOptions("fastervlm", budgets=(BUDGET,), overwrite=True))
    with tempfile.TemporaryDirectory() as scratch, Kotlin(Path(scratch)) as client:
        rows = []
        for row in chain(
            _rows(client, artifact, _Asked(artifact)),
            _of_families(client, folder) if families else (),
        ):
            click.echo(str(row))
            rows.append(row)
    click.echo(f"{time.perf_counter() - started:.0f} s")
    raise SystemExit(any(row.right < row.asked for row in rows))


def _rows(client: Kotlin, artifact: Path, asked: _Asked) -> Iterator[Row]:
    client.load(artifact, vision="fp32", decoder="fp32", test=True)
    pictures = {path: client.see(open_picture(path)) for path, _ in asked.questions}
    for budget in (BUDGET, SMALLER):
        answers = [
            client.answer(text, pictures[path], budget=budget, most=STEPS)
            for path, text in asked.questions
        ]
        expected = asked.tokens(budget)
        same = [each["token_ids"] == ids for each, ids in zip(answers, expected, strict=True)]
        yield Row(f"answers with the runtime's tokens, budget {budget}", sum(same), len(same))
        streamed = ["".join(each["pieces"]) == each["text"] for each in answers]
        yield Row(f"answers streamed whole, budget {budget}", sum(streamed), len(streamed))
    again = [each["cached_tokens"] > SMALLER for each in answers[1:7]]
    yield Row("further questions that read the picture from the cache", sum(again), len(again))
    yield Row("sessions and tensors that are closed", *_closed(client))
    right, devices = _devices(client, artifact)
    yield Row("devices that pass the self-test, that are refused, and closed", right, devices)


def _of_families(client: Kotlin, folder: Path) -> Iterator[Row]:
    """Models of random weights, about pictures square and wide, at two budgets."""
    images = sorted([*EXAMPLES.glob("*.png"), *EXAMPLES.glob("*.jpg")])
    for name in FAMILIES:
        checkpoint, artifact = folder / f"checkpoint-{name}", folder / name
        make_checkpoint(PRESETS.get(name) or HUB_PRESETS[name], checkpoint)
        export(str(checkpoint), artifact, ExportOptions(budgets=(SMALLER,), overwrite=True))
        vlm = VLM.load(artifact, vision_precision="fp32", decoder_precision="fp32")
        client.load(artifact, vision="fp32", decoder="fp32", test=True)
        same = []
        for path in images:
            seen = client.see(open_picture(path))
            for budget in (SMALLER, 3):
                expected = vlm.generate(WHAT, [path], budget=budget, sampling=_FEW)
                answer = client.answer(WHAT, seen, budget=budget, most=8)
                same.append(answer["token_ids"] == list(expected.token_ids))
        yield Row(f"answers with the runtime's tokens, {name}", sum(same), len(same))


def _closed(client: Kotlin) -> tuple[int, int]:
    return int(client.ask("close")["open"] == 0), 1


def _devices(client: Kotlin, artifact: Path) -> tuple[int, int]:
    """XNNPACK computes rightly here; what is given to NNAPI comes back wrong."""
    right = 0
    for provider, passes in (("xnnpack", True), ("nnapi", False)):
        try:
            client.load(artifact, vision="fp32", decoder="fp32", provider=provider)
        except Refused as error:
            right += not passes and "self-test" in str(error)
        else:
            right += passes
        right += client.ask("close")["open"] == 0
    return right, 4


if __name__ == "__main__":
    main()
