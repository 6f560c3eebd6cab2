"""Knows what a second question costs: its time to first token against the first's, about the same
picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import click

from benchmark.interleave import check_quiet, take_turns
from benchmark.options import EXISTING, NUMBERS, Section, Timing, into_section, timed
from pocketvlm import VLM, Artifact, EngineSettings, Sampling
from pocketvlm_measure.profiler.questions import noise_picture

FIRST = "What is in the picture, and where is it?"
SECOND = "And what colour does it have?"


@click.command()
@click.argument("folder", type=EXISTING)
@click.option("--budgets", "sizes", type=NUMBERS, required=True, help="Visual tokens.")
@click.option("--new-tokens", default=16, show_default=True, help="Length of the first answer.")
@timed
@into_section("conversation")
def conversation(
    folder: Path, sizes: tuple[int, ...], new_tokens: int, timing: Timing, section: Section
) -> None:
    """Time to first token of a first and a second question about a picture, with every decoder of
    an artifact."""
    line = check_quiet(timing.allow_busy)
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    files = [("onnx", name) for name in manifest.decoder.graphs]
    files += [("llama.cpp", name) for name in manifest.decoder.gguf]
    seeds = itertools.count()

    def measure(engine: str, precision: str, budget: int) -> Callable[[], dict[str, float]]:
        vlm = VLM.load(
            folder,
            decoder=engine,
            decoder_precision=precision,
            budget=budget,
            settings=EngineSettings(threads=timing.threads),
        )

        def ask_twice() -> dict[str, float]:
            # A new picture, or its features would come from the cache.
            picture = noise_picture(artifact, next(seeds))
            chat = vlm.chat()
            first = chat.ask(FIRST, images=[picture], sampling=Sampling(max_new_tokens=new_tokens))
            second = chat.ask(SECOND, sampling=Sampling(max_new_tokens=1))
            return {"first": first.timings_ms["ttft"], "second": second.timings_ms["ttft"]}

        return ask_twice

    candidates = {(*file, budget): measure(*file, budget) for file in files for budget in sizes}
    spreads = take_turns(candidates, timing.repeat)
    lines = [
        f"{manifest.source.model}, {timing.threads} threads, {timing.repeat} interleaved turns, "
        f"milliseconds to the"
        f" first token, median (smallest-largest); {line}.\n",
        "| decoder | visual tokens | first question | second question | of the first |",
        "|---|---|---|---|---|",
    ]
    for (engine, precision, budget), spread in spreads.items():
        ratio = spread["second"].median / spread["first"].median
        lines.append(
            f"| {engine} {precision} | {budget} | {spread['first']} | {spread['second']} | "
            f"**{ratio:.2f}** |"
        )
    section.publish("\n".join(lines))
