"""Knows the peak memory of an export, step by step, against the weights and against what the plan
estimates."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click
import psutil

from benchmark.options import EXISTING, Section, into_section
from make_checkpoint import PRESETS, Preset, build_config, make_tokenizer, weight_shapes
from pocketvlm_export import ExportOptions
from pocketvlm_export.checkpoint import Source, Weights
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.loading import Checkpoint, inspect_checkpoint
from pocketvlm_export.planning import make_plan

LARGE, LARGE_NAME = "clip-l-llama-7b", "LLaVA-1.5-7B"
_INTERVAL = 0.02  # seconds between two samples


@dataclass
class Peak:
    """The most memory while one step ran, in bytes: resident, and of that anonymous (backed by no
    file)."""

    resident: int = 0
    anonymous: int = 0

    def look(self, process: psutil.Process) -> None:
        """Take one sample of the process."""
        info = process.memory_info()
        self.resident = max(self.resident, info.rss)
        self.anonymous = max(self.anonymous, info.rss - getattr(info, "shared", 0))


class Watch:
    """Samples a process for as long as the block runs; samples belong to the step begun last.

    From outside: a thread of the process itself would be blocked while a copy holds the
    interpreter.
    """

    def __init__(self, pid: int) -> None:
        self.peaks = {"start": Peak()}
        self._current = self.peaks["start"]
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def begin(self, step: str) -> None:
        """Count samples from now on to ``step``."""
        self._current = self.peaks.setdefault(step, Peak())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_INTERVAL):
            try:
                self._current.look(self._process)
            except psutil.Error:  # it has ended
                return


@click.command()
@click.argument("checkpoint", type=EXISTING)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the artifact goes.",
)
@click.option("--budget", default="64", show_default=True, help="As of `pocketvlm export`.")
@into_section("export-memory")
def export_memory(checkpoint: Path, output: Path, budget: str, section: Section) -> None:
    """Peak memory of an export, parity gate included, against the checkpoint's weights in
    float32."""
    command = [sys.executable, "-m", "benchmark.export_once", str(checkpoint), str(output), budget]
    total = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with Watch(process.pid) as watch:
            for line in process.stdout:
                event = json.loads(line)
                total = event.get("peak_mb", total)
                if "step" in event:
                    watch.begin(event["step"])
                    click.echo(event["step"], err=True)
    if process.returncode:
        raise click.ClickException(f"the export failed with exit code {process.returncode}")
    section.publish(
        "\n".join(_report(inspect_checkpoint(str(checkpoint)), watch.peaks, total * 1e6))
    )


def _report(checkpoint: Checkpoint, peaks: dict[str, Peak], total: float) -> Iterator[str]:
    weights = 4.0 * checkpoint.weights.parameters()
    estimate = make_plan(checkpoint, ExportOptions()).memory_bytes
    yield (
        f"`{checkpoint.source.name}`: {weights / 1e9:.2f} GB of weights in float32, peak resident "
        f"memory of the export"
        f" {total / 1e9:.2f} GB, **{total / weights:.2f}x**; `--dry-run` estimates "
        f"{estimate / 1e9:.2f} GB.\n"
    )
    yield "| step | peak resident, GB | of that anonymous |"
    yield "|---|---|---|"
    for step, peak in peaks.items():
        yield f"| {step} | {peak.resident / 1e9:.2f} | {peak.anonymous / 1e9:.2f} |"
    large = _imagined(PRESETS[LARGE])
    weights, plan = 4.0 * large.weights.parameters(), make_plan(large, ExportOptions())
    largest = plan.decoder_bytes + plan.embed_bytes
    yield ""
    yield (
        f"{LARGE_NAME} ({weights / 1e9:.1f} GB in float32) was not exported: the same formula "
        f"gives {plan.memory_bytes / 1e9:.1f} GB, {plan.memory_bytes / weights:.2f}x, since one "
        "component is in memory at a time and the largest, the decoder with its head and "
        f"embedding, takes {largest / 1e9:.1f} GB."
    )


def _imagined(preset: Preset) -> Checkpoint:
    """A checkpoint without files: a plan needs only its shapes."""
    config = build_config(preset, make_tokenizer(preset.chat))
    family = FAMILIES[config.model_type]
    header = {name: ("F32", tuple(shape)) for name, shape in weight_shapes(config).items()}
    weights = Weights(Path(), {"model.safetensors": header}, family.canonical)
    return Checkpoint(Source(LARGE_NAME, Path(), frozenset()), family.parse(config), weights)
