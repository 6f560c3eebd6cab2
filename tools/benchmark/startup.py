"""Knows how long a command takes: a new process from its start to its answer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmark.interleave import check_quiet, take_turns
from benchmark.options import EXISTING, Section, Timing, into_section, timed


@click.command()
@click.argument("folder", type=EXISTING)
@click.argument("checkpoint", type=EXISTING)
@click.option("--image", type=EXISTING, required=True)
@click.option("--prompt", required=True)
@timed
@into_section("startup")
def startup(
    folder: Path, checkpoint: Path, image: Path, prompt: str, timing: Timing, section: Section
) -> None:
    """A new process from its start to its first answer: this runtime against transformers on the
    same checkpoint."""
    line = check_quiet(timing.allow_busy)
    texts: dict[str, str] = {}

    def measure(script: str, source: Path) -> Callable[[], dict[str, float]]:
        command = [
            sys.executable,
            "-m",
            script,
            str(source),
            str(image),
            prompt,
            str(timing.threads),
        ]

        def run_command() -> dict[str, float]:
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            elapsed = (time.perf_counter() - started) * 1e3
            report = json.loads(done.stdout.splitlines()[-1])
            texts[script] = report["text"].strip()
            return {"process": elapsed, "peak_mb": report["peak_mb"]}

        return run_command

    candidates = {
        "pocketvlm": measure("benchmark.answer_once", folder),
        "transformers": measure("benchmark.answer_with_transformers", checkpoint),
    }
    spreads = take_turns(candidates, timing.repeat)
    if len(set(texts.values())) > 1:
        raise click.ClickException(f"the two do not answer alike: {texts}")
    base = spreads["transformers"]
    lines = [
        f"New process to answer, {timing.threads} threads, {timing.repeat} interleaved turns; "
        f"{line}.\n",
        "| | milliseconds, median (smallest-largest) | faster | peak memory |",
        "|---|---|---|---|",
    ]
    for name, spread in spreads.items():
        ratio = base["process"].median / spread["process"].median
        lines.append(
            f"| {name} | {spread['process']} | {ratio:.1f}x | {spread['peak_mb'].median:.0f} MB |"
        )
    section.publish("\n".join(lines))
