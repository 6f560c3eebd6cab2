"""Knows what the pruned vision graphs cost beside the unpruned one, in time and in bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from benchmark.interleave import check_quiet, take_turns
from benchmark.options import EXISTING, NUMBERS, Section, Timing, into_section, timed
from pocketvlm import Artifact, EngineSettings
from pocketvlm.layouts import counting_layout
from pocketvlm.vision.encoder import VisionEncoder


@click.command()
@click.argument("pruned", type=EXISTING)
@click.argument("unpruned", type=EXISTING)
@click.option(
    "--budgets", "sizes", type=NUMBERS, help="Visual tokens; all graphs of PRUNED by default."
)
@timed
@into_section("vision")
def vision(
    pruned: Path, unpruned: Path, sizes: tuple[int, ...] | None, timing: Timing, section: Section
) -> None:
    """The pruned vision graphs against the unpruned one, by themselves."""
    line = check_quiet(timing.allow_busy)
    ours, whole = Artifact.open(pruned), Artifact.open(unpruned)
    layout = counting_layout(whole)
    height, width = layout.config.image_size or layout.largest_size()
    pixel_values = np.random.default_rng(0).standard_normal((1, 3, height, width), dtype=np.float32)

    def measure(artifact: Artifact, budget: int | None) -> Callable[[], dict[str, float]]:
        settings = EngineSettings(threads=timing.threads)
        encoder = VisionEncoder.open(artifact, budget=budget, settings=settings)

        def encode() -> dict[str, float]:
            started = time.perf_counter()
            encoder.encode(pixel_values)
            return {"vision": (time.perf_counter() - started) * 1e3}

        return encode

    chosen = sizes or sorted(ours.manifest.vision.graphs, reverse=True)
    candidates = {"unpruned": measure(whole, None)} | {
        str(size): measure(ours, size) for size in chosen
    }
    spreads = take_turns(candidates, timing.repeat)
    base = spreads["unpruned"]["vision"].median
    lines = [
        f"{timing.threads} threads, {timing.repeat} interleaved turns; {line}.\n",
        "| vision graph | milliseconds, median (smallest-largest) | of the unpruned |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {s['vision']} | {s['vision'].median / base:.2f}x |"
        for name, s in spreads.items()
    ]
    lines += ["", f"Each further budget adds {further_budget(ours):.2f} MB to the folder."]
    section.publish("\n".join(lines))


def further_budget(artifact: Artifact) -> float:
    """Megabytes that the largest graph beside the default's adds: budgets share their weights
    file."""
    graphs = artifact.manifest.vision.graphs
    others = [
        names
        for budget, names in graphs.items()
        if budget != artifact.manifest.pruning.default_budget
    ]
    return max(
        (artifact.manifest.files[name].bytes / 1e6 for names in others for name in names.values()),
        default=0.0,
    )
