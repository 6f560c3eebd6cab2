"""Answers on another CPU against this machine's: ``PYTHONPATH=tools python -m other_cpu
arm64|haswell``.

Exports the demo checkpoint and answers every question about the three example scenes twice, here
and under qemu-user. ``arm64`` has the real arm64 wheels of ONNX Runtime and the other libraries.
``haswell`` is an x86 CPU whose sums of int8 products overflow, which the runtime must notice. In
fp32 the tokens must be equal. Integer arithmetic differs from CPU to CPU by rounding, so there the
logits must be close. Needs apt and dpkg-deb.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from other_cpu.machines import MACHINES, Machine
from pocketvlm_export import ExportOptions, export
from pocketvlm_measure.evaluation.questions import Question, read_questions

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
BUDGET = 36
EXACT = "fp32"
# Differences of logits against the largest of them: what the parity gate allows in float32, and
# what quantization does.
TOLERANCE = {EXACT: 1e-4}
TOLERANCE_QUANTIZED = 0.05


Answer = dict[str, Any]  # as answer.py writes it


@dataclass(frozen=True)
class Configuration:
    """Precisions of the graphs that answer."""

    vision: str
    decoder: str

    def __str__(self) -> str:
        return f"vision {self.vision}, decoder {self.decoder}"


CONFIGURATIONS = (
    Configuration("fp32", "fp32"),
    Configuration("int8", "int8"),
    Configuration("int8", "int4"),
)


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(list(MACHINES)))
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("build"),
    help="Where everything is kept.",
)
@click.option("--mirror", help="URI of a Debian archive; apt's own if not given.")
@click.option("--questions", "most", type=int, help="Only so many of the questions.")
def main(name: str, folder: Path, mirror: str | None, most: int | None) -> None:
    """Make the machine, ask both, compare; exit 1 on a difference."""
    folder = folder.resolve() / name
    machine = MACHINES[name](folder / "machine", mirror)
    vision, decoder = (
        tuple(dict.fromkeys(names))
        for names in zip(*((c.vision, c.decoder) for c in CONFIGURATIONS), strict=True)
    )
    artifact = folder / "demo"
    options = ExportOptions(
        budgets=(BUDGET,), vision_precisions=vision, decoder_precisions=decoder, overwrite=True
    )
    export("demo", artifact, options)
    asked = read_questions(EXAMPLES / "questions.jsonl", most).questions
    pairs = [(question.images[0], question) for question in asked]
    failed = False
    for configuration in CONFIGURATIONS:
        here = ask(None, artifact, pairs, configuration)
        there = ask(machine, artifact, pairs, configuration)
        failed |= not compare(configuration, pairs, here, there)
    raise SystemExit(int(failed))


def ask(
    machine: Machine | None,
    artifact: Path,
    pairs: list[tuple[str, Question]],
    configuration: Configuration,
) -> list[Answer]:
    """Let a machine answer, this one where None is given."""
    machine = machine or Machine([sys.executable])
    with tempfile.NamedTemporaryFile("w", suffix=".json") as questions:
        json.dump([(image, question.text) for image, question in pairs], questions)
        questions.flush()
        arguments = [
            str(HERE / "answer.py"),
            str(artifact),
            questions.name,
            configuration.vision,
            configuration.decoder,
        ]
        done = subprocess.run(
            [*machine.command, *arguments],
            env={**os.environ, **machine.environment},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{machine.command[0]} failed:\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(
    configuration: Configuration,
    pairs: list[tuple[str, Question]],
    here: list[Answer],
    there: list[Answer],
) -> bool:
    """Print the answers that differ and how far the machines agree; whether they do."""
    worst, same, kept = 0.0, 0, 0
    right = [
        sum(
            answer["text"] == question.answers[0]
            for answer, (_, question) in zip(answers, pairs, strict=True)
        )
        for answers in (here, there)
    ]
    for (image, question), mine, theirs in zip(pairs, here, there, strict=True):
        logits = [np.array(answer["logits"]) for answer in (mine, theirs)]
        worst = max(worst, float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()))
        equal = mine["token_ids"] == theirs["token_ids"]
        same += equal
        kept += mine["kept"] == theirs["kept"]
        if not equal:
            click.echo(
                f"  {Path(image).name}  {question.text}  {mine['text']!r} / {theirs['text']!r}"
            )
    tolerance = TOLERANCE.get(configuration.decoder, TOLERANCE_QUANTIZED)
    exact = configuration == Configuration(EXACT, EXACT)
    passed = worst <= tolerance and (not exact or same == kept == len(pairs))
    click.echo(
        f"{'ok' if passed else 'DIFFERENT'}  {configuration}: tokens of {same} of {len(pairs)} "
        f"answers are the same, patches of {kept}; right {right[0]} and {right[1]}; logits differ "
        f"by at most {worst:.1e} of the largest (allowed {tolerance:.0e})"
    )
    return passed


if __name__ == "__main__":
    main()
