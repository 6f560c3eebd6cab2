"""Trains the demo checkpoint from nothing: ``PYTHONPATH=tools python -m train_demo``; run again to
resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from make_checkpoint.text import save_processor
from train_demo.data import corpus, load_scenes
from train_demo.model import build_processor, build_tokenizer
from train_demo.training import train_model, train_regions, train_tower

CARD = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# PocketVLM's demo checkpoint

A small LLaVA, trained from nothing on generated pictures of one to three coloured shapes and
letters. It knows nothing else.
"""
DEMO = Path(__file__).parents[2] / "exporter" / "pocketvlm_export" / "demo_checkpoint"


@click.command(help=__doc__)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("build/train_demo"),
    help="Pictures, checkpoints.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=DEMO,
    help="The finished checkpoint's folder.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--scenes", default=48_000, show_default=True, help="Training pictures.")
@click.option("--threads", type=int, help="CPU threads; torch's choice by default.")
def main(work: Path, output: Path, seed: int, scenes: int, threads: int | None) -> None:
    """Run every stage that is not finished yet, then write the checkpoint."""
    if threads:
        torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(corpus(3_000))
    train, validation = load_scenes("train", scenes, work), load_scenes("validation", 512, work)
    clip = train_tower(tokenizer, train, validation, work, seed)
    regions = train_regions(clip, tokenizer, train, validation, work, seed + 1)
    model = train_model(tokenizer, clip, regions, train, validation, work, seed + 2)
    write_checkpoint(model, tokenizer, output)
    click.echo(f"written: {output}")


def write_checkpoint(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    *,
    card: str = CARD,
) -> None:
    """The folder as the hub would hold it: fp16 safetensors, configs, tokenizer, processor, chat
    template."""
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.generation_config.update(do_sample=False, max_new_tokens=64)
    model.half().save_pretrained(partial)
    save_processor(build_processor(tokenizer), partial)
    (partial / "README.md").write_text(card)
    for file in partial.iterdir():
        output.mkdir(parents=True, exist_ok=True)
        file.replace(output / file.name)
    partial.rmdir()


if __name__ == "__main__":
    main()
