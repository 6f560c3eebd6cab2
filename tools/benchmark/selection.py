"""Knows what each pruning method's selection costs within the vision graph, all methods side by
side."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from benchmark.interleave import Spread, check_quiet, take_turns
from benchmark.options import Section, Timing, into_section, timed
from pocketvlm.cli.lists import Comma
from pocketvlm.ort.settings import CPU_PROVIDER
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs import PrunedVisionEncoder, VisionEncoderGraph, trace
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.onnx_passes import (
    ExternalWeights,
    NameSelection,
    WeightsFile,
    fuse,
    tidy,
)
from pocketvlm_export.precisions import GATE_PRECISION, PRECISIONS, names_for
from pocketvlm_export.pruning import PRUNERS, find_pruner, make_pruner
from pocketvlm_export.pruning.base import TEXT
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_measure.profiler.selection import read_events

_RUNS = 3  # of an open graph in each turn, after one to warm it up


def _method(name: str) -> str:
    if name not in _methods():
        raise ValueError(name)
    return name


def _methods() -> tuple[str, ...]:
    """Those that select in the vision graph."""
    return tuple(name for name in PRUNERS if TEXT not in find_pruner(name).reads)


@click.command()
@click.argument("model")
@click.option(
    "--methods", type=Comma("methods", _method), default=_methods(), help="All by default."
)
@click.option("--budget", type=int, help="Visual tokens kept; a quarter by default.")
@click.option(
    "--precision",
    type=click.Choice(names_for("vision", calibrated=False)),
    default=GATE_PRECISION,
    show_default=True,
)
@timed
@into_section("selection")
def selection(
    model: str,
    methods: Sequence[str],
    budget: int | None,
    precision: str,
    timing: Timing,
    section: Section,
) -> None:
    """Selection's share of the vision graph's time, for each method on the checkpoint MODEL.

    Only vision graphs are built, with the weights of all in one file, and one is open at a time.
    """
    with tempfile.TemporaryDirectory() as folder:
        spec, files = build(model, methods, budget, precision, Path(folder))
        line = check_quiet(timing.allow_busy)
        spreads = take_turns(
            {name: _measure(file, spec, timing) for name, file in files}, timing.repeat, warmup=0
        )
    selected = budget or round(spec.tokens / 4)
    lines = [
        f"{spec.tokens} patches, {selected} kept, {precision}; {timing.threads} threads, "
        f"{timing.repeat} interleaved turns "
        f"of {_RUNS} pictures; {line}.\n",
        "| method | vision graph, ms: median (smallest-largest) | selection, ms | of the vision "
        "graph | nodes |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(name, spread) for name, spread in spreads.items()]
    section.publish("\n".join(lines))


def build(
    model: str, methods: Sequence[str], budget: int | None, precision: str, folder: Path
) -> tuple[VisionSpec, list[tuple[str, Path]]]:
    """Write the vision graph of each method into ``folder``; returns the tower's spec with (method,
    file) of each."""
    checkpoint = open_checkpoint(model)
    spec = checkpoint.spec.vision
    weights = WeightsFile(folder / "weights.onnx_data")
    files = []
    with quiet_transformers():
        tower = checkpoint.family.load_tower(
            checkpoint.weights, checkpoint.spec, layers=spec.depth, attention="eager"
        )
        projector = checkpoint.family.load_projector(checkpoint.weights, checkpoint.spec)
        for name in methods:
            pruner = make_pruner(name, {})
            pruner.settle(spec)
            kept = budget if budget and pruner.prunes else pruner.default_budget(spec.tokens)
            graph = VisionEncoderGraph(PrunedVisionEncoder(tower, projector, spec, pruner, kept))
            traced = trace(graph)
            tidy(traced, graph.output_axes)
            fuse(traced, graph.kind)
            if precision != GATE_PRECISION:
                PRECISIONS[precision].make_pass()(traced)
            NameSelection()(traced)
            ExternalWeights(weights)(traced)
            files.append((name, folder / f"{name}.onnx"))
            ir.save(traced, files[-1][1])
    return spec, files


def _measure(file: Path, spec: VisionSpec, timing: Timing) -> Callable[[], dict[str, float]]:
    pixels = np.random.default_rng(0).standard_normal((1, 3, *spec.tile_size), dtype=np.float32)

    def run_with_profiling() -> dict[str, float]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = timing.threads
        options.enable_profiling, options.profile_file_prefix = True, str(file.with_suffix(""))
        session = ort.InferenceSession(file, options, providers=[CPU_PROVIDER])
        for _ in range(1 + _RUNS):
            session.run(None, {"pixel_values": pixels})
        events = json.loads(Path(session.end_profiling()).read_text())
        selection = read_events(events)
        nodes = float(len(ir.load(file).graph))
        if selection is None:
            raise click.ClickException(f"{file.stem} names no node as selecting")
        return {
            "vision": Spread(selection.nodes).median,
            "select": Spread(selection.select).median,
            "nodes": nodes,
        }

    return run_with_profiling


def _row(name: str, spread: dict[str, Spread]) -> str:
    share = 100 * spread["select"].median / spread["vision"].median
    title = find_pruner(name).title
    vision, select, nodes = spread["vision"], spread["select"].median, int(spread["nodes"].median)
    return f"| {title} | {vision} | {select:.2f} | {share:.2f} % | {nodes} |"
