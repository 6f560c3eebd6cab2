"""Exact match of every decoder in an artifact of the demo: ``PYTHONPATH=tools python -m demo_accuracy.engines DIR``.

Export it first with ``pocketvlm export demo -o DIR --budget 144 --decoder both --gguf-type f16,q8_0,q4_k_m,q4_0``.
"""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

from demo_accuracy.answers import NEW_TOKENS
from pocketvlm import VLM, Artifact
from readme_section import replace_section
from train_demo.scenes import question_set


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--questions", default=1_000, show_default=True, help="Held-out questions.")
@click.option("--budget", type=int, help="Visual tokens; the artifact's default if not given.")
@click.option("--readme", type=click.Path(path_type=Path, exists=True), help="Write the table into this file.")
def main(folder: Path, questions: int, budget: int | None, readme: Path | None) -> None:
    """Ask every decoder the same questions, print the table, write it where asked."""
    manifest = Artifact.open(folder).manifest
    files = {("onnx", name): file for name, file in manifest.decoder.graphs.items()}
    files |= {("llama.cpp", name): file for name, file in manifest.decoder.gguf.items()}
    kept = budget or manifest.pruning.default_budget
    lines = [
        f"Exact match on {questions} held-out questions, {kept} of {manifest.pruning.tokens_before} visual tokens:\n",
        "| decoder | type | size, MB | exact match, % |",
        "|---|---|---|---|",
    ]
    for (engine, precision), file in files.items():
        right = count_right(folder, engine, precision, kept, questions)
        size = sum(entry.bytes for name, entry in manifest.files.items() if name in (file, f"{file}_data")) / 1e6
        lines.append(f"| {engine} | {precision} | {size:.1f} | {100 * right / questions:.1f} |")
    text = "\n".join(lines)
    click.echo(text)
    if readme:
        replace_section(readme, "engines", text)


def count_right(folder: Path, engine: str, precision: str, budget: int, questions: int) -> int:
    """How many of the first test questions one decoder answers to the letter."""
    vlm = VLM.load(folder, decoder=engine, decoder_precision=precision, budget=budget)
    bar = tqdm(question_set("test", questions), f"{engine} {precision}", total=questions, disable=None)
    return sum(
        vlm.generate(asked.text, images=[picture], max_new_tokens=NEW_TOKENS).text.strip() == asked.answer
        for picture, asked in bar
    )


if __name__ == "__main__":
    main()
