"""Knows what a visual token costs: time to first token and memory at several budgets of one artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import click
import numpy as np
from PIL import Image

from benchmark.interleave import check_quiet, take_turns
from benchmark.options import EXISTING, NUMBERS, Section, Timing, into_section, timed
from pocketvlm import VLM, Artifact
from pocketvlm.decoders import open_decoder
from pocketvlm.prompts import Prompter
from pocketvlm.vision import VisionEncoder

STAGES = ("preprocess", "vision", "embed", "prefill", "ttft")
TEXT_TOKENS = 40


@click.command()
@click.argument("folder", type=EXISTING)
@click.option("--image", type=EXISTING, help="A picture; noise by default.")
@click.option("--prompt", help=f"The question; by default as many words as make {TEXT_TOKENS} text tokens.")
@click.option("--budgets", "sizes", type=NUMBERS, required=True, help="Visual tokens; the first is compared against.")
@click.option("--memory/--no-memory", default=False, help="Also the peak memory of a process that answers once.")
@timed
@into_section("budgets")
def budgets(
    folder: Path,
    image: Path | None,
    prompt: str | None,
    sizes: tuple[int, ...],
    memory: bool,
    timing: Timing,
    section: Section,
) -> None:
    """Time to first token by budget, stage by stage."""
    line = check_quiet(timing.allow_busy)
    artifact = Artifact.open(folder)
    picture = image or noise_picture(artifact)
    question = prompt or question_of(artifact, TEXT_TOKENS)
    decoder = open_decoder(artifact, threads=timing.threads)

    def measure(budget: int) -> Callable[[], dict[str, float]]:
        vlm = VLM(artifact, VisionEncoder.open(artifact, budget=budget, threads=timing.threads), decoder)

        def once() -> dict[str, float]:
            answer = vlm.generate(question, images=[picture], budget=budget, max_new_tokens=1)
            return cast(dict[str, float], answer.timings_ms)

        return once

    spreads = take_turns({budget: measure(budget) for budget in sizes}, timing.repeat)
    peaks = {budget: peak_memory(folder, budget, question, timing.threads) for budget in sizes} if memory else {}
    first = spreads[sizes[0]]
    lines = [
        f"{artifact.manifest.source.model}, {timing.threads} threads, {timing.repeat} interleaved turns, median"
        f" milliseconds (smallest-largest); {line}.\n",
        "| visual tokens | " + " | ".join(STAGES) + " | first token sooner |" + (" peak memory |" if peaks else ""),
        "|---|" + "---|" * (len(STAGES) + 1 + bool(peaks)),
    ]
    for budget, found in spreads.items():
        cells = [str(found[stage]) for stage in STAGES]
        cells.append(f"**{first['ttft'].median / found['ttft'].median:.1f}x**")
        cells += [f"{peaks[budget]:.0f} MB"] if peaks else []
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    prefill = first["prefill"].median
    ratios = ", ".join(f"{b}: {prefill / spreads[b]['prefill'].median:.1f}x" for b in sizes[1:])
    lines += ["", f"Prefill faster than at {sizes[0]}: {ratios}."]
    section.publish("\n".join(lines))


def peak_memory(folder: Path, budget: int, prompt: str, threads: int) -> float:
    """Peak resident memory (MB) of a fresh process that loads the artifact and answers once at ``budget``."""
    command = [sys.executable, "-m", "benchmark.answer_once", str(folder), "grey", prompt, str(threads), str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mb"])


def noise_picture(artifact: Artifact) -> Image.Image:
    """A picture of the size the tower reads."""
    height, width = artifact.manifest.vision.image_size
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def question_of(artifact: Artifact, text_tokens: int) -> str:
    """A question that makes ``text_tokens`` tokens beside the picture's, template included."""
    prompter = Prompter.from_artifact(artifact)
    prompt = "What"
    while len(prompter.encode(prompt + " is", 1, 1)) - 1 <= text_tokens:
        prompt += " is"
    return prompt
