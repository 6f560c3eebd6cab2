"""Answers on an older x86 CPU, emulated: ``PYTHONPATH=tools python -m old_cpu FOLDER``.

CPUs with AVX2 and without VNNI add pairs of products of bytes in 16 bits, which overflow; the runtime tells ONNX
Runtime to avoid that. Every ONNX precision pair of the artifact answers the questions about the shipped pictures twice,
here and under ``qemu-x86_64 -cpu Haswell``. In float32 the answers must be equal; in integers, which no two kinds of
CPU compute alike to the last bit, most of them. Needs qemu-user 10 (Debian 13's, unpacked anywhere).
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from pocketvlm import Artifact

HERE = Path(__file__).parent
QUESTIONS = HERE.parents[1] / "examples" / "questions.json"
AGREE = 0.9  # of the answers of an integer pair

Answers = dict[str, list[dict[str, Any]]]


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--qemu", default="qemu-x86_64", show_default=True, help="The emulator.")
@click.option("--cpu", default="Haswell", show_default=True, help="The CPU that it plays.")
@click.option("--only", multiple=True, metavar="PAIR", help="Only this pair, as in 'int8 int4'; repeat for several.")
@click.option("--questions", type=click.Path(path_type=Path, exists=True), default=QUESTIONS, help="As in examples/.")
def main(folder: Path, qemu: str, cpu: str, only: tuple[str, ...], questions: Path) -> None:
    """Ask both, compare, exit 1 where a pair disagrees."""
    if (emulator := shutil.which(qemu)) is None:
        raise click.ClickException(f"{qemu} is not there: install qemu-user, or give its path with --qemu")
    manifest = Artifact.open(folder).manifest
    vision = manifest.vision.graphs[manifest.pruning.default_budget]
    pairs = [pair for pair in itertools.product(vision, manifest.decoder.graphs) if not only or " ".join(pair) in only]
    here = ask([], folder, questions, pairs)
    there = ask([emulator, "-cpu", cpu], folder, questions, pairs)
    click.echo("| vision | decoder | equal answers | kept patches in common, % |\n|---|---|---|---|")
    failed = False
    for pair, ours in here.items():
        theirs = there[pair]
        equal = sum(a["text"] == b["text"] for a, b in zip(ours, theirs, strict=True))
        common = [
            len({*a["kept"]} & {*b["kept"]}) / len(a["kept"]) for a, b in zip(ours, theirs, strict=True) if a["kept"]
        ]
        click.echo(
            f"| {pair.replace(' ', ' | ')} | {equal} of {len(ours)} | {100 * sum(common) / max(1, len(common)):.1f} |"
        )
        failed |= equal < (len(ours) if pair == "fp32 fp32" else AGREE * len(ours))
    raise SystemExit(1 if failed else 0)


def ask(emulator: list[str], folder: Path, questions: Path, pairs: list[tuple[str, str]]) -> Answers:
    """Answers by pair of precisions, from a process of its own."""
    command = [*emulator, sys.executable, str(HERE / "answer.py"), str(folder), str(questions), json.dumps(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stderr}")
    answers: Answers = json.loads(done.stdout.splitlines()[-1])
    return answers


if __name__ == "__main__":
    main()
