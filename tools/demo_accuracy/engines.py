"""Exact match of every precision in an artifact of the demo: ``PYTHONPATH=tools python -m demo_accuracy.engines DIR``.

Every pair of a vision graph and an ONNX decoder, and every GGUF file with the default vision graph. Export it first
with ``pocketvlm export demo -o DIR --budget 144 --vision-precision fp32,int8 --decoder both
--decoder-precision fp32,int8,int4,int4_b128
--gguf-type f16,q8_0,q4_k_m,q4_0``.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from demo_accuracy.answers import NEW_TOKENS
from page_section import replace_section
from pocketvlm import VLM, Artifact
from pocketvlm.decoders import open_decoder
from pocketvlm.preprocessing import Preprocessor
from pocketvlm.vision import VisionEncoder
from train_demo.scenes import question_set

SHARE = 0.1  # of the patches: what overlap of kept patches is measured at
PICTURES = 300
THREADS = 1  # the demo is too small to gain from more
_EXACT = "fp32"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--questions", default=1_000, show_default=True, help="Held-out questions.")
@click.option("--budget", type=int, help="Visual tokens; the artifact's default if not given.")
@click.option("--only", multiple=True, metavar="PAIR", help="Only this pair, as in 'int8 int4'; repeat for several.")
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Write the table into this file.")
def main(folder: Path, questions: int, budget: int | None, only: tuple[str, ...], page: Path | None) -> None:
    """Ask every decoder the same questions, print the table, write it where asked."""
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    kept = budget or manifest.pruning.default_budget
    lines = [
        f"Exact match on {questions} held-out questions, {kept} of {manifest.pruning.tokens_before} visual tokens:\n",
        "| decoder | vision | type | size of both, MB | exact match, % |",
        "|---|---|---|---|---|",
    ]
    for engine, vision, precision, files in candidates(artifact, only):
        right = count_right(artifact, engine, vision, precision, kept, questions)
        size = sum(entry.bytes for name, entry in manifest.files.items() if name.removesuffix("_data") in files) / 1e6
        lines.append(f"| {engine} | {vision} | {precision} | {size:.1f} | {100 * right / questions:.1f} |")
        click.echo(lines[-1], err=True)
    for precision in manifest.vision.graphs[manifest.pruning.default_budget]:
        if precision != _EXACT:
            mean, least = overlap(artifact, precision, kept)
            told = f"{mean:.3f} on average and at least {least:.3f} over {PICTURES} pictures"
            lines += ["", f"Of the patches that {_EXACT} keeps at {SHARE:.0%}, {precision} keeps {told}."]
    text = "\n".join(lines)
    click.echo(text)
    if page:
        replace_section(page, "engines", text)


def candidates(artifact: Artifact, only: Collection[str]) -> Iterator[tuple[str, str, str, set[str]]]:
    """(engine, vision precision, decoder's precision or type, graph files) of what is to be asked."""
    manifest = artifact.manifest
    graphs = manifest.vision.graphs[manifest.pruning.default_budget]
    default = next(iter(graphs))
    found = [("onnx", vision, name) for vision, name in itertools.product(graphs, manifest.decoder.graphs)]
    found += [("llama.cpp", default, kind) for kind in manifest.decoder.gguf]
    for engine, vision, name in found:
        if not only or f"{vision} {name}" in only:
            decoder = (manifest.decoder.graphs if engine == "onnx" else manifest.decoder.gguf)[name]
            yield engine, vision, name, {graphs[vision], decoder}


def count_right(artifact: Artifact, engine: str, vision: str, precision: str, budget: int, questions: int) -> int:
    """How many of the first test questions one pair answers to the letter."""
    vlm = VLM(
        artifact,
        VisionEncoder.open(artifact, budget=budget, precision=vision, threads=THREADS),
        open_decoder(artifact, engine=engine, precision=precision, threads=THREADS),
    )
    bar = tqdm(question_set("test", questions), f"{engine} {vision} {precision}", total=questions, disable=None)
    return sum(
        vlm.generate(asked.text, images=[picture], budget=budget, max_new_tokens=NEW_TOKENS).text.strip()
        == asked.answer
        for picture, asked in bar
    )


def overlap(artifact: Artifact, precision: str, budget: int) -> tuple[float, float]:
    """Mean and least part of the patches kept in float32 that a precision keeps too, at `SHARE` of all patches."""
    preprocessor = Preprocessor.from_artifact(artifact)
    count = round(SHARE * artifact.manifest.pruning.tokens_before)
    # Each narrows a larger graph's answer, as an answer at a smaller budget does.
    encoders = [
        VisionEncoder.open(artifact, budget=budget, precision=name, threads=THREADS) for name in (_EXACT, precision)
    ]
    parts = []
    for picture, _ in question_set("test", PICTURES):
        pixels = preprocessor(picture)[None]
        exact, found = ({*encoder.encode(pixels).narrow(count).kept_indices[0].tolist()} for encoder in encoders)
        parts.append(len(exact & found) / count)
    return float(np.mean(parts)), min(parts)


if __name__ == "__main__":
    main()
