"""Knows what smaller pictures save beside fewer tokens, in time to first token and in memory."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.interleave import check_quiet
from benchmark.options import EXISTING, NUMBERS, Section, Timing, into_section, timed
from pocketvlm import Artifact
from pocketvlm.cli.lists import SIZE
from pocketvlm_measure.cases import Case
from pocketvlm_measure.machine import Machine
from pocketvlm_measure.profiler.measure import profile
from pocketvlm_measure.profiler.questions import Question, made_up_prompt
from pocketvlm_measure.profiler.result import Result

_HEAD = (
    "| pixels at most | tokens | kept | vision, ms | prefill, ms | time to first token, ms | of "
    "the first | by FLOPs | peak memory, MB |\n|---|---|---|---|---|---|---|---|---|"
)


@click.command()
@click.argument("artifact", type=EXISTING)
@click.option("--picture-size", type=SIZE, default="640x480", show_default=True, metavar="WxH")
@click.option("--budgets", type=NUMBERS, required=True, help="Visual tokens kept.")
@click.option("--max-pixels", type=NUMBERS, required=True, help="Caps on the picture.")
@click.option("--vision-precision", default="int8", show_default=True)
@click.option("--decoder-precision", default="int8+int4", show_default=True)
@timed
@into_section("pictures")
def pictures(
    artifact: Path,
    picture_size: tuple[int, int],
    budgets: tuple[int, ...],
    max_pixels: tuple[int, ...],
    vision_precision: str,
    decoder_precision: str,
    timing: Timing,
    section: Section,
) -> None:
    """Smaller pictures and fewer tokens of an artifact that takes pictures of any size."""
    line = check_quiet(timing.allow_busy)
    opened = Artifact.open(artifact)
    cases = [
        Case(
            budget,
            "onnx",
            decoder_precision,
            vision_precision,
            timing.threads,
            max_pixels=pixels,
        )
        for pixels in max_pixels
        for budget in budgets
    ]
    question = Question(made_up_prompt(opened), picture_size=picture_size)
    measured = profile(opened, cases, question, repeat=timing.repeat)
    first = measured.results[0]
    lines = [
        f"A picture of {picture_size[0]}x{picture_size[1]}, vision {vision_precision}, decoder "
        f"{decoder_precision}, {timing.threads} threads, {timing.repeat} interleaved turns, "
        f"medians; {line}. {Machine.look().describe()}\n",
        _HEAD,
        *(_row(result, first) for result in measured.results),
    ]
    section.publish("\n".join(lines))


def _row(result: Result, first: Result) -> str:
    sample, stages = result.samples[0], result.stages
    ttft, flops, before = stages["ttft"], result.costs.flops_first_token, first.costs
    work = "?"
    if flops and before.flops_first_token:
        work = f"{flops / before.flops_first_token:.2f}"
    peak = result.peak_bytes
    cells = [
        str(result.case.max_pixels),
        str(sample.visual_before),
        str(sample.visual_after),
        f"{stages['vision'].median:.0f}",
        f"{stages['prefill'].median:.0f}",
        f"{ttft.median:.0f}",
        f"{ttft.median / first.stages['ttft'].median:.2f}",
        work,
        f"{peak.median / 1e6:.0f}" if peak else "?",
    ]
    return f"| {' | '.join(cells)} |"
