"""Speed and memory of artifacts: ``PYTHONPATH=tools python -m benchmark budgets|vision|startup DIR ...``."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import click
import numpy as np
import safetensors
from PIL import Image

from benchmark.interleave import Spread, check_quiet, take_turns
from pocketvlm import VLM, Artifact
from pocketvlm.decoders import open_decoder
from pocketvlm.prompts import Prompter
from pocketvlm.vision import VisionEncoder
from readme_section import replace_section

STAGES = ("preprocess", "vision", "embed", "prefill", "ttft")


@click.group(help=__doc__)
def main() -> None:
    """The commands below."""


def common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every measurement has."""
    for option in (
        click.option("--repeat", default=7, show_default=True, help="Turns that count."),
        click.option("--threads", default=2, show_default=True, help="Threads of each engine."),
        click.option("--allow-busy", is_flag=True, help="Measure although something else runs."),
        click.option("--readme", type=click.Path(path_type=Path, exists=True), help="Write the table into this file."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--image", type=click.Path(path_type=Path, exists=True), help="A picture; noise by default.")
@click.option("--prompt", help="The question; by default as many words as make 40 text tokens.")
@click.option("--budgets", required=True, help="Comma-separated visual tokens; the first is compared against.")
@click.option("--memory/--no-memory", default=False, help="Also the peak memory of a process that answers once.")
@click.option("--section", default="budgets", help="README section to write.")
@common
def budgets(
    folder: Path,
    image: Path | None,
    prompt: str | None,
    budgets: str,
    memory: bool,
    section: str,
    repeat: int,
    threads: int,
    allow_busy: bool,
    readme: Path | None,
) -> None:
    """Time to first token by budget, stage by stage."""
    line = check_quiet(allow_busy)
    artifact = Artifact.open(folder)
    sizes = [int(size) for size in budgets.split(",")]
    picture = image or noise_picture(artifact)
    prompt = prompt or forty_tokens(artifact)
    decoder = open_decoder(artifact, threads=threads)

    def measure(budget: int) -> Callable[[], dict[str, float]]:
        vlm = VLM(artifact, VisionEncoder.open(artifact, budget=budget, threads=threads), decoder)

        def once() -> dict[str, float]:
            answer = vlm.generate(prompt, images=[picture], budget=budget, max_new_tokens=1)
            return cast(dict[str, float], answer.timings_ms)

        return once

    spreads = take_turns({str(budget): measure(budget) for budget in sizes}, repeat)
    peaks = {budget: peak_memory(folder, budget, prompt, threads) for budget in sizes} if memory else {}
    first = spreads[str(sizes[0])]
    lines = [
        f"{artifact.manifest.source.model}, {threads} threads, {repeat} interleaved turns, median milliseconds"
        f" (smallest-largest); {line}.\n",
        "| visual tokens | " + " | ".join(STAGES) + " | first token sooner |" + (" peak memory |" if peaks else ""),
        "|---|" + "---|" * (len(STAGES) + 1 + bool(peaks)),
    ]
    for budget in sizes:
        found = spreads[str(budget)]
        cells = [str(found[stage]) for stage in STAGES]
        cells.append(f"**{first['ttft'].median / found['ttft'].median:.1f}x**")
        cells += [f"{peaks[budget]:.0f} MB"] if peaks else []
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    prefill = first["prefill"].median
    lines.append("")
    ratios = ", ".join(f"{b}: {prefill / spreads[str(b)]['prefill'].median:.1f}x" for b in sizes[1:])
    lines.append(f"Prefill faster than at {sizes[0]}: {ratios}.")
    publish("\n".join(lines), readme, section)


@main.command()
@click.argument("pruned", type=click.Path(path_type=Path, exists=True))
@click.argument("unpruned", type=click.Path(path_type=Path, exists=True))
@click.option("--budgets", help="Comma-separated; all graphs of PRUNED by default.")
@click.option("--section", default="vision", help="README section to write.")
@common
def vision(
    pruned: Path,
    unpruned: Path,
    budgets: str | None,
    section: str,
    repeat: int,
    threads: int,
    allow_busy: bool,
    readme: Path | None,
) -> None:
    """The pruned vision graphs against the unpruned one, by themselves."""
    line = check_quiet(allow_busy)
    ours, whole = Artifact.open(pruned), Artifact.open(unpruned)
    height, width = whole.manifest.vision.image_size
    pixel_values = np.random.default_rng(0).standard_normal((1, 3, height, width), dtype=np.float32)

    def measure(artifact: Artifact, budget: int | None) -> Callable[[], dict[str, float]]:
        encoder = VisionEncoder.open(artifact, budget=budget, threads=threads)

        def once() -> dict[str, float]:
            started = time.perf_counter()
            encoder.encode(pixel_values)
            return {"vision": (time.perf_counter() - started) * 1e3}

        return once

    sizes = [int(b) for b in budgets.split(",")] if budgets else sorted(ours.manifest.vision.graphs, reverse=True)
    candidates = {"unpruned": measure(whole, None)} | {str(size): measure(ours, size) for size in sizes}
    spreads = take_turns(candidates, repeat)
    base = spreads["unpruned"]["vision"].median
    lines = [
        f"{threads} threads, {repeat} interleaved turns; {line}.\n",
        "| vision graph | milliseconds, median (smallest-largest) | of the unpruned |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {s['vision']} | {s['vision'].median / base:.2f}x |" for name, s in spreads.items()]
    lines += ["", f"Each further budget adds {further_budget(ours):.2f} MB to the folder."]
    publish("\n".join(lines), readme, section)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--image", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--prompt", required=True)
@click.option("--section", default="startup", help="README section to write.")
@common
def startup(
    folder: Path,
    checkpoint: Path,
    image: Path,
    prompt: str,
    section: str,
    repeat: int,
    threads: int,
    allow_busy: bool,
    readme: Path | None,
) -> None:
    """A new process from its start to its first answer: this runtime against transformers on the same checkpoint."""
    line = check_quiet(allow_busy)

    texts: dict[str, str] = {}

    def measure(script: str, source: Path) -> Callable[[], dict[str, float]]:
        command = [sys.executable, "-m", script, str(source), str(image), prompt, str(threads)]

        def once() -> dict[str, float]:
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            elapsed = (time.perf_counter() - started) * 1e3
            report = json.loads(done.stdout.splitlines()[-1])
            texts[script] = report["text"].strip()
            return {"process": elapsed, "peak_mb": report["peak_mb"]}

        return once

    candidates = {
        "pocketvlm": measure("benchmark.answer_once", folder),
        "transformers": measure("benchmark.answer_with_transformers", checkpoint),
    }
    spreads = take_turns(candidates, repeat)
    if len(set(texts.values())) > 1:
        raise click.ClickException(f"the two do not answer alike: {texts}")
    base = spreads["transformers"]
    lines = [
        f"New process to answer, {threads} threads, {repeat} interleaved turns; {line}.\n",
        "| | milliseconds, median (smallest-largest) | faster | peak memory |",
        "|---|---|---|---|",
    ]
    for name, found in spreads.items():
        ratio = base["process"].median / found["process"].median
        lines.append(f"| {name} | {found['process']} | {ratio:.1f}x | {found['peak_mb'].median:.0f} MB |")
    publish("\n".join(lines), readme, section)


def further_budget(artifact: Artifact) -> float:
    """Megabytes that the largest graph beside the default's adds: budgets share their weights file."""
    graphs = artifact.manifest.vision.graphs
    others = [names for budget, names in graphs.items() if budget != artifact.manifest.pruning.default_budget]
    return max((artifact.manifest.files[name].bytes / 1e6 for names in others for name in names.values()), default=0.0)


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Where the artifact goes.")
@click.option("--budget", default="64", show_default=True, help="As of `pocketvlm export`.")
@click.option("--section", default="export-memory", help="README section to write.")
@click.option("--readme", type=click.Path(path_type=Path, exists=True), help="Write the line into this file.")
def export_memory(checkpoint: Path, output: Path, budget: str, section: str, readme: Path | None) -> None:
    """Peak memory of an export, parity gate included, against the checkpoint's weights in float32."""
    weights = sum(parameters(file) for file in checkpoint.glob("*.safetensors")) * 4
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmark.export_once", str(checkpoint), str(output), budget]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, peak = time.perf_counter() - started, float(done.stdout.splitlines()[-1])
    publish(
        f"`{checkpoint.name}`: {weights / 1e9:.2f} GB of weights in float32, peak resident memory of the export"
        f" {peak / 1e3:.2f} GB, **{peak * 1e6 / weights:.2f}x**; {seconds:.0f} s.",
        readme,
        section,
    )


def parameters(file: Path) -> int:
    """How many numbers a safetensors file holds."""
    with safetensors.safe_open(file, framework="numpy") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def peak_memory(folder: Path, budget: int, prompt: str, threads: int) -> float:
    """Peak resident memory (MB) of a fresh process that loads the artifact and answers once at ``budget``."""
    command = [sys.executable, "-m", "benchmark.answer_once", str(folder), "grey", prompt, str(threads), str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mb"])


def noise_picture(artifact: Artifact) -> Image.Image:
    """A picture of the size the tower reads."""
    height, width = artifact.manifest.vision.image_size
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def forty_tokens(artifact: Artifact, text_tokens: int = 40) -> str:
    """A question that makes ``text_tokens`` tokens beside the picture's, template included."""
    prompter = Prompter.from_artifact(artifact)
    prompt = "What"
    while len(prompter.encode(prompt + " is", 1, 1)) - 1 <= text_tokens:
        prompt += " is"
    return prompt


def publish(text: str, readme: Path | None, section: str) -> None:
    """Print the table and put it into the README where asked."""
    click.echo(text)
    if readme:
        replace_section(readme, section, text)


__all__ = ["Spread", "main"]

if __name__ == "__main__":
    main()
