"""Knows what a second question costs: its time to first token against the first's, about the same
picture, in a conversation and outside of one."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmark.interleave import check_quiet, take_turns
from benchmark.options import EXISTING, NUMBERS, Section, Timing, into_section, timed
from pocketvlm import VLM, Answer, Artifact, EngineSettings, Sampling
from pocketvlm_measure.profiler.questions import noise_picture

FIRST = "What is in the picture, and where is it?"
SECOND = "And what colour does it have?"
SIDE = "Name three fruits."  # between the questions about the picture, and about none


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
    an artifact.

    The second one is asked in the first one's conversation, and again by itself, with the
    picture's file, after a side question. Its own tokens, which nothing saves, are counted.
    """
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
            picture, brief = _file(noise_picture(artifact, next(seeds))), Sampling(max_new_tokens=1)
            chat = vlm.chat()
            first = chat.ask(FIRST, images=[picture], sampling=Sampling(max_new_tokens=new_tokens))
            second = chat.ask(SECOND, sampling=brief)
            vlm.generate(SIDE, sampling=brief)
            alone = vlm.generate(SECOND, images=[picture], sampling=brief)
            return {
                "first": first.timings_ms["ttft"],
                "second": second.timings_ms["ttft"],
                "tokens": _read(second),
                "alone": alone.timings_ms["ttft"],
                "alone tokens": _read(alone),
                "alone share": 100 * alone.timings_ms["prefill"] / alone.timings_ms["ttft"],
            }

        return ask_twice

    candidates = {(*file, budget): measure(*file, budget) for file in files for budget in sizes}
    spreads = take_turns(candidates, timing.repeat)
    lines = [
        f"{manifest.source.model}, {timing.threads} threads, {timing.repeat} interleaved turns, "
        f"milliseconds to the"
        f" first token, median (smallest-largest); {line}.\n",
        "`Of the first`: of its time. `Read`: tokens that were not in the cache; of the time, what "
        "their prefill takes.\n",
        "| decoder | visual tokens | first question | second in its conversation | read | of the "
        "first | second by itself | read | prefill | of the first |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (engine, precision, budget), spread in spreads.items():
        first = spread["first"].median
        lines.append(
            f"| {engine} {precision} | {budget} | {spread['first']} | {spread['second']} | "
            f"{spread['tokens'].median:.0f} | **{spread['second'].median / first:.2f}** | "
            f"{spread['alone']} | {spread['alone tokens'].median:.0f} | "
            f"{spread['alone share'].median:.0f} % | **{spread['alone'].median / first:.2f}** |"
        )
    section.publish("\n".join(lines))


def _file(picture: npt.NDArray[np.uint8]) -> bytes:
    """The picture as a file, which is what most questions come with."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _read(answer: Answer) -> float:
    """Tokens of the prompt that were not in the cache."""
    return float(answer.prompt_tokens["total"] - answer.prompt_tokens["cached"])
