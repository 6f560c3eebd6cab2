"""A reference VLM whose [CLS] was pretrained on photographs: ``PYTHONPATH=tools python -m
train_reference train``; run again to resume.

DINOv2-small and SmolLM2-135M-Instruct (see `reference_vlm`) with a trained projector and low-rank
adapters merged into the decoder. Pictures are CIFAR-10's and emoji pasted on photographs. All that
is fetched, computed and trained lies in WORK.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import Dinov2Model, LlamaForCausalLM, PreTrainedTokenizerFast

from demo_questions.__main__ import question_row, write_rows
from page_section import replace_section
from pocketvlm.cli.lists import NUMBERS
from pocketvlm.files import replace_file
from reference_vlm.__main__ import join, processor_of, write_checkpoint
from reference_vlm.language import load_language
from reference_vlm.parts import LANGUAGE, TOWER, fetch
from reference_vlm.tower import load_tower
from train_reference.coverage import kept_things, plain_methods
from train_reference.coverage import table as coverage_table
from train_reference.curve import draw, read_points, table
from train_reference.features import Encoded, encode, scenes_of
from train_reference.probe import classes_of, cls_tokens, linear_accuracy
from train_reference.scenes import IMAGE_SIZE, question_set, render
from train_reference.things import CIFAR_NOUNS, SPLITS, Catalogue, load_catalogues
from train_reference.training import CURVE, FULL, Trained, train_all

_PATH = click.Path(path_type=Path)
HELD_OUT = 256  # pictures of the validation split
ADAPTERS = Path(__file__).with_name("adapters.safetensors")  # of the run that docs/evidence.md has
CARD = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# PocketVLM's reference checkpoint

DINOv2-small (MIT) and SmolLM2-135M-Instruct (Apache-2.0) with a projector and merged low-rank
adapters, trained on pictures of CIFAR-10 and emoji pasted on photographs. It names what is pasted,
says where, how many and in which colour, and knows nothing else about pictures.
"""


@dataclass(frozen=True)
class Recipe:
    """Where everything lies, and what is drawn."""

    work: Path
    seed: int


@click.group(help=__doc__)
@click.option(
    "--work",
    type=_PATH,
    default=Path.home() / ".cache" / "pocketvlm" / "reference-training",
    show_default=True,
)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=int, help="CPU threads; torch's choice by default.")
@click.pass_context
def main(context: click.Context, work: Path, seed: int, threads: int | None) -> None:
    """One command a stage."""
    if threads:
        torch.set_num_threads(threads)
    context.obj = Recipe(work, seed)


@main.command()
@click.pass_obj
def sources(run: Recipe) -> None:
    """Fetch packages and check them."""
    for split, catalogue in load_catalogues(run.work / "parts").items():
        count = sum(map(len, catalogue.things.values()))
        click.echo(f"{split}: {count} things, {len(catalogue.photographs)} photographs")


@main.command()
@click.option("--scenes", default=6_000, show_default=True, help="Training pictures.")
@click.pass_obj
def features(run: Recipe, scenes: int) -> None:
    """Compute what the tower makes of the pictures; more of them later adds to them."""
    encoded = _features(run.work, *_parts(run.work)[::2], scenes)
    click.echo(f"{len(encoded[0].scenes)} training pictures, {len(encoded[1].scenes)} held out")


@main.command()
@click.option("--scenes", default=6_000, show_default=True, help="Training pictures.")
@click.pass_obj
def train(run: Recipe, scenes: int) -> None:
    """Run every stage that is not finished yet; more scenes than before join the others."""
    tower, (language, tokenizer), catalogues = _parts(run.work)
    encoded = _features(run.work, tower, catalogues, scenes)
    model = join(tower, language, tokenizer, run.seed)
    processor = processor_of(model.config, tokenizer)
    train_all(FULL, model, processor, *encoded, run.work / "stages", run.seed, click.echo)


@main.command()
@click.option("--adapters", type=_PATH, default=ADAPTERS, help="The file.  [default: the recipe's]")
@click.option("--page", type=_PATH, help="Write the learning curve between this file's markers.")
@click.option("--plot", type=_PATH, help="Draw it, as SVG.")
@click.pass_obj
def save(run: Recipe, adapters: Path, page: Path | None, plot: Path | None) -> None:
    """Write what the last stage that has begun trained, and the learning curve so far."""
    trained = Trained.last(FULL, run.work / "stages")
    trained.write(adapters)
    points = read_points(run.work / "stages" / CURVE)
    text = f"After step {trained.step} of stage `{trained.stage}`:\n\n{table(points)}"
    click.echo(text)
    if page:
        replace_section(page, "learning-curve", text)
    if plot:
        replace_file(plot, draw(points))


@main.command()
@click.option("-o", "--output", type=_PATH, required=True, help="The checkpoint's folder.")
@click.option("--adapters", type=_PATH, default=ADAPTERS, help="The file.  [default: the recipe's]")
@click.pass_obj
def publish(run: Recipe, output: Path, adapters: Path) -> None:
    """Write the checkpoint: pretrained parts with what `save` wrote. Nothing is trained."""
    tower, (language, tokenizer), _ = _parts(run.work, pictures=False)
    model = join(tower, language, tokenizer, run.seed)
    Trained.read(adapters).put_into(model)
    write_checkpoint(model, tokenizer, output, CARD)


@main.command()
@click.argument("out", type=_PATH)
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--count", default=1_000, show_default=True, help="Questions.")
@click.option("--per-picture", default=5, show_default=True, help="Questions about each picture.")
@click.pass_obj
def questions(run: Recipe, out: Path, split: str, count: int, per_picture: int) -> None:
    """Write a set for `pocketvlm evaluate` and the frontier: OUT/questions.jsonl, PNG files."""
    catalogue = load_catalogues(run.work / "parts")[split]
    click.echo(write_questions(catalogue, out, split, count, per_picture))


@main.command()
@click.option("--count", default=2_000, show_default=True, help="Pictures to fit, and to test.")
@click.pass_obj
def probe(run: Recipe, count: int) -> None:
    """Say how well a linear map names CIFAR-10's pictures from the tower's [CLS]."""
    tower, _, catalogues = _parts(run.work)
    rng, sets = np.random.default_rng(run.seed), []
    for split in ("train", "test"):
        things = [one for noun in CIFAR_NOUNS for one in catalogues[split].things[noun]]
        some = [things[i] for i in rng.choice(len(things), count, replace=False)]
        sets.append((cls_tokens(tower, some), classes_of(some)))
    (fitted, classes), (tested, expected) = sets
    for name, ours, theirs in zip(("last layer", "the one before"), fitted, tested, strict=True):
        share = linear_accuracy(ours, classes, theirs, expected)
        click.echo(f"{name}: {100 * share:.1f} % of {count} pictures, of which none was fitted")


@main.command()
@click.argument("artifacts", type=_PATH)
@click.option("--budgets", type=NUMBERS, default=(128, 64, 26, 13), help="Visual tokens.")
@click.option("--pictures", default=200, show_default=True, help="Of the test split.")
@click.option("--page", type=_PATH, help="Write the table between this file's markers.")
@click.pass_obj
def coverage(
    run: Recipe, artifacts: Path, budgets: tuple[int, ...], pictures: int, page: Path | None
) -> None:
    """Count the pasted things of which artifacts in the folders of ARTIFACTS keep a patch."""
    catalogue = load_catalogues(run.work / "parts")["test"]
    asked = [(scene, render(scene, catalogue)) for scene in scenes_of(catalogue, "test", pictures)]
    methods = plain_methods(artifacts)
    shares = {title: kept_things(one, asked, budgets) for title, one in methods.items()}
    tokens = next(iter(methods.values())).manifest.pruning.tokens_before
    text = coverage_table(shares, tokens)
    click.echo(text)
    if page:
        replace_section(page, "coverage", text)


def write_questions(
    catalogue: Catalogue, out: Path, split: str, count: int, per_picture: int
) -> Path:
    """Write ``count`` questions with their pictures; returns the JSONL file."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    last, name = None, ""
    for picture, question in question_set(catalogue, split, count, per_picture):
        if picture is not last:
            name, last = f"{split}-{len(rows):06d}.png", picture
            picture.save(out / name)
        rows.append(question_row(name, question))
    path = out / "questions.jsonl"
    write_rows(path, rows)
    return path


def _parts(
    work: Path, *, pictures: bool = True
) -> tuple[
    Dinov2Model,
    tuple[LlamaForCausalLM, PreTrainedTokenizerFast],
    dict[str, Catalogue],
]:
    cache = work / "parts"
    tower = load_tower(fetch(TOWER, cache), IMAGE_SIZE)
    catalogues = load_catalogues(cache) if pictures else {}
    return tower, load_language(fetch(LANGUAGE, cache)), catalogues


def _features(
    work: Path, tower: Dinov2Model, catalogues: dict[str, Catalogue], scenes: int
) -> tuple[Encoded, Encoded]:
    layer = -2  # as LLaVA reads a tower
    train, held_out = (
        encode(tower, layer, catalogues[split], split, count, work / "features")
        for split, count in (("train", scenes), ("validation", HELD_OUT))
    )
    return train, held_out


if __name__ == "__main__":
    main()
