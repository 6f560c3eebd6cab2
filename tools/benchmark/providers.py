"""Knows what a vision graph costs under other execution providers than ONNX Runtime's own, each in
an environment of its own."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmark.interleave import Spread, check_quiet, take_turns
from benchmark.options import EXISTING, Section, Timing, into_section, timed
from compare_peers.environments import make_environment
from compare_peers.worker import Worker
from install_llama_cpp import CACHE
from pocketvlm import Artifact
from pocketvlm.layouts import open_layout
from pocketvlm_measure.machine import Machine
from pocketvlm_measure.profiler.questions import noise_picture

# What each is made of. onnxruntime-openvino owns the same module as onnxruntime, so that the two
# never lie in one environment.
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("-c", "constraints.txt", "onnxruntime", "numpy"),
    "onnxruntime-openvino": ("onnxruntime-openvino==1.24.1", "numpy"),
    "openvino-runtime": ("openvino==2026.4.1", "numpy"),
}
_BFLOAT16 = {"INFERENCE_PRECISION_HINT": "bf16"}
_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Candidate:
    """One way to compute a vision graph: an environment, and its program's arguments.

    ``dynamic`` says whether it multiplies dynamically quantized graphs in integers.
    """

    name: str
    environment: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    dynamic: bool = False


def candidates(threads: int) -> tuple[Candidate, ...]:
    """ONNX Runtime's own provider first, then OpenVINO's, then OpenVINO's own runtime."""

    def openvino(hints: Mapping[str, str]) -> dict[str, Any]:
        given = {
            "device_type": "CPU",
            "num_of_threads": str(threads),
            "load_config": json.dumps({"CPU": hints}),
        }
        return {
            "engine": "onnxruntime",
            "provider": "OpenVINOExecutionProvider",
            "options": given,
            "unfused": True,
        }

    own = {"engine": "onnxruntime", "provider": "CPUExecutionProvider", "options": {}}
    return (
        Candidate("ONNX Runtime, CPU", "onnxruntime", own, dynamic=True),
        Candidate("ONNX Runtime, OpenVINO, float32", "onnxruntime-openvino", openvino(_FLOAT32)),
        Candidate("ONNX Runtime, OpenVINO, bfloat16", "onnxruntime-openvino", openvino(_BFLOAT16)),
        Candidate("OpenVINO", "openvino-runtime", {"engine": "openvino", "options": {}}),
    )


@click.command()
@click.argument("artifacts", type=EXISTING, nargs=-1, required=True)
@click.option("--budget", type=int, help="Visual tokens kept; the artifact's default.")
@click.option(
    "--precisions",
    default="int8,int8_static",
    show_default=True,
    help="Vision precisions, of those that an artifact has.",
)
@click.option("--only", multiple=True, help="Candidates whose name contains this; repeatable.")
@click.option(
    "--environments",
    type=click.Path(path_type=Path),
    default=CACHE / "providers",
    help="For the providers' environments; made where they are missing.",
)
@click.option("--pip-args", default="", help="For pip, as in the Makefile.")
@timed
@into_section("providers")
def providers(
    artifacts: tuple[Path, ...],
    budget: int | None,
    precisions: str,
    only: tuple[str, ...],
    environments: Path,
    pip_args: str,
    timing: Timing,
    section: Section,
) -> None:
    """Vision graphs of one checkpoint under each execution provider: the first row is 1.

    OpenVINO takes a graph whole where it has standard operators (--portable). Dynamically quantized
    graphs it computes in float32, so those are for ONNX Runtime's own provider alone. Each row is a
    process, suspended while others are measured; pictures are the same for all, as the first
    artifact's layout cuts them.
    """
    opened = {path: Artifact.open(path) for path in artifacts}
    chosen = [
        each
        for each in candidates(timing.threads)
        if not only or any(part in each.name for part in only)
    ]
    rows = {
        f"{path.name} {precision}, {candidate.name}": (candidate, graph)
        for path, artifact in opened.items()
        for precision, graph in _graphs(artifact, budget, precisions.split(",")).items()
        for candidate in chosen
        if candidate.dynamic or precision != "int8"
    }
    if not rows:
        raise click.ClickException("no artifact has such a precision, or no candidate such a name")
    pythons = {
        name: make_environment(environments.resolve() / name, needed, pip_args.split())
        for name, needed in ENVIRONMENTS.items()
        if any(candidate.environment == name for candidate in chosen)
    }
    line = check_quiet(timing.allow_busy)
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        workers = {}
        for number, (name, (candidate, graph)) in enumerate(rows.items()):
            settings = {"graph": str(graph), "threads": timing.threads, **candidate.settings}
            settings["results"] = str(folder / f"{number}.npz")
            python = pythons[candidate.environment]
            worker = Worker(name, python, "with_tower", settings)
            workers[name] = running.enter_context(worker)
        first = next(iter(opened.values()))
        pictures = {name: _pictures(first, folder / "pixels.npy") for name in rows}
        spreads = take_turns(
            {name: partial(_ask, workers[name], pictures[name]) for name in rows}, timing.repeat
        )
        results = [_load(folder / f"{number}.npz") for number in range(len(rows))]
    note = f"{timing.threads} threads, {timing.repeat} interleaved turns; {line}."
    versions = [f"- {name}: {worker.version}" for name, worker in workers.items()]
    described = f"{note} {Machine.look().describe()}\n"
    section.publish("\n".join([described, *table(spreads, results), "", *versions]))


def _graphs(artifact: Artifact, budget: int | None, precisions: Sequence[str]) -> dict[str, Path]:
    graphs = artifact.manifest.vision.graphs[budget or artifact.manifest.pruning.default_budget]
    return {name: artifact.path(graphs[name]).resolve() for name in precisions if name in graphs}


def _pictures(artifact: Artifact, path: Path) -> Iterator[Path]:
    """Pixels of one picture of noise after another, the same for whoever counts along."""
    layout = open_layout(artifact)
    for seed in itertools.count():
        image = Image.fromarray(noise_picture(artifact, seed))
        np.save(path, layout.cut(image).batches[0])
        yield path


def _ask(worker: Worker, pictures: Iterator[Path]) -> dict[str, float]:
    report = worker.ask(next(pictures))
    return {"vision": report["ttft"], "peak_mb": report["peak_mb"]}


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path) as file:
        return dict(file)


def table(
    spreads: Mapping[str, Mapping[str, Spread]], results: Sequence[Mapping[str, npt.NDArray[Any]]]
) -> list[str]:
    """Markdown: a row for each candidate, all beside the first; ``results`` are of the last
    picture: image_features (B, k, hidden) and kept_indices (B, k)."""
    first, exact = next(iter(spreads.values()))["vision"].median, results[0]
    lines = [
        "| vision graph | milliseconds, median (smallest-largest) | of the first | peak memory, MB "
        "| kept as by the first | cosine of these |",
        "|---|---|---|---|---|---|",
    ]
    for (name, spread), result in zip(spreads.items(), results, strict=True):
        ours, theirs = (each["kept_indices"][0] for each in (result, exact))
        shared = np.intersect1d(ours, theirs)
        rows = [
            each["image_features"][0][np.isin(each["kept_indices"][0], shared)].astype(np.float64)
            for each in (result, exact)
        ]
        cosine = (rows[0] * rows[1]).sum() / max(np.prod(list(map(np.linalg.norm, rows))), 1e-30)
        cells = [
            str(spread["vision"]),
            f"{spread['vision'].median / first:.2f}x",
            f"{spread['peak_mb'].median:.0f}",
            f"{len(shared) / len(theirs):.2f}",
            f"{cosine:.4f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
