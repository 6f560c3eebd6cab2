"""Knows how much memory `pocketvlm run` takes beyond the files that it opens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import onnx

from benchmark.options import EXISTING, Section, into_section
from pocketvlm import Artifact
from pocketvlm.artifact import pick_graph

FACTOR, ROOM_MB = 1.25, 150.0  # what a run may take: so many times its files, and this


@click.command("run-memory")
@click.argument("folder", type=EXISTING)
@click.option("--image", type=EXISTING, required=True)
@click.option("--prompt", default="What is in the picture?", show_default=True)
@click.option("--threads", default=2, show_default=True)
@into_section("run-memory")
def run_memory(folder: Path, image: Path, prompt: str, threads: int, section: Section) -> None:
    """Peak resident memory of `pocketvlm run` in a new process, for every pair of precisions of the
    ONNX graphs, against the files that it opens. It takes no time: the machine may be busy."""
    artifact = Artifact.open(folder)
    lines = [
        f"Peak resident memory of `pocketvlm run`, mapped files counted, {threads} threads; "
        f"allowed: {FACTOR} x files + {ROOM_MB:.0f} MB.\n",
        "| vision | decoder | files | peak | allowed | |",
        "|---|---|---|---|---|---|",
    ]
    graphs = artifact.manifest.vision.graphs[pick_graph(artifact.manifest, None)]
    for vision in graphs:
        for decoder in artifact.manifest.decoder.graphs:
            files = _files_mb(artifact, graphs[vision], decoder)
            peak = _peak_mb(folder, image, prompt, threads, vision, decoder)
            allowed = FACTOR * files + ROOM_MB
            verdict = "within" if peak <= allowed else "**beyond**"
            lines.append(
                f"| {vision} | {decoder} | {files:.0f} MB | {peak:.0f} MB | {allowed:.0f} MB | "
                f"{verdict} |"
            )
    section.publish("\n".join(lines))


def _files_mb(artifact: Artifact, vision: str, decoder: str) -> float:
    """Size of the graphs that an answer opens, each weights file once, and of the tokenizer."""
    spec = artifact.manifest.decoder
    graphs = [vision, spec.graphs[decoder], spec.embed[spec.tables[decoder]]]
    files = {artifact.root / name for name in [*graphs, "tokenizer.json"]}
    for name in graphs:
        path = artifact.root / name
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            places = [entry.value for entry in tensor.external_data if entry.key == "location"]
            files |= {path.parent / place for place in places}
    return sum(file.stat().st_size for file in files) / 1e6


def _peak_mb(
    folder: Path, image: Path, prompt: str, threads: int, vision: str, decoder: str
) -> float:
    command = [sys.executable, "-m", "benchmark.run_once", "run", str(folder)]
    command += ["--image", str(image), "--prompt", prompt, "--threads", str(threads)]
    command += ["--vision-precision", vision, "--decoder-precision", decoder, "--decoder", "onnx"]
    done = subprocess.run(
        [*command, "--max-new-tokens", "8"], capture_output=True, text=True, check=True
    )
    peak: float = json.loads(done.stderr.splitlines()[-1])["peak_mb"]
    return peak
