"""The adaptive budget against fixed ones of as many tokens: ``PYTHONPATH=tools python -m demo_adaptive DIR``.

DIR is an artifact of the demo. Each share of the scores is held against the fixed budget nearest to what it took on
average, on the same questions, with McNemar's exact test. The default share was chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from page_section import replace_section
from pocketvlm import VLM, Artifact, AutoBudget
from pocketvlm.decoders import open_decoder
from pocketvlm.evaluation.statistics import mcnemar
from pocketvlm.features import FeatureLimits
from pocketvlm.vision import VisionEncoder
from train_demo.scenes import SPLITS, Question, make_scene, question_set, scene_rng

NEW_TOKENS = 48
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
Asked = Sequence[tuple[Image.Image, Question]]


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--questions", default=700, show_default=True, help="How many of the split.")
@click.option(
    "--split", type=click.Choice(list(SPLITS)), default="test", show_default=True, help="Where they are from."
)
@click.option("--ceiling", type=int, help="k, the most tokens a picture; the artifact's default if not given.")
@click.option("--share", "shares", type=float, multiple=True, default=SHARES, help="Repeat for several.")
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Write the table into this file.")
def main(
    folder: Path, questions: int, split: str, ceiling: int | None, shares: Sequence[float], page: Path | None
) -> None:
    """Ask, print the table, write it where asked."""
    artifact = Artifact.open(folder)
    most = ceiling or artifact.manifest.pruning.default_budget
    encoder = VisionEncoder.open(artifact, budget=most, threads=1)
    if encoder.budget != most:
        raise click.UsageError(f"no graph keeps {most} tokens: export with --budget {most}")
    unlimited = FeatureLimits(memory_bytes=1 << 40)
    vlm = VLM(artifact, encoder, open_decoder(artifact, threads=1), feature_limits=unlimited, keep_features=True)
    asked = list(question_set(split, questions))
    things = np.array([len(make_scene(scene_rng(split, number)).things) for number in range(questions)])
    whole, _ = ask(vlm, asked, most)
    lines = [
        f"{questions} questions of the {split} split, at most {most} tokens a picture, with which "
        f"{_percent(whole)} are answered to the letter:\n",
        "| share of the scores | tokens a picture: mean (smallest-largest) | with 1, 2, 3 objects | exact match | "
        "fixed budget | exact match | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for share in tqdm(shares, disable=None):
        right, kept = ask(vlm, asked, AutoBudget(share))
        fixed = round(kept.mean())
        other, _ = ask(vlm, asked, fixed)
        p = mcnemar(int((right & ~other).sum()), int((other & ~right).sum()))
        by_objects = ", ".join(f"{kept[things == count].mean():.1f}" for count in (1, 2, 3))
        lines.append(
            f"| {share:g} | {kept.mean():.1f} ({kept.min()}-{kept.max()}) | {by_objects} | {_percent(right)} | {fixed} "
            f"| {_percent(other)} | {p:.2g} |"
        )
    text = "\n".join(lines)
    click.echo(text)
    if page:
        replace_section(page, "adaptive", text)


def ask(vlm: VLM, asked: Asked, budget: int | AutoBudget) -> tuple[np.ndarray, np.ndarray]:
    """Which answers are right, and the tokens that each picture took, (n,) both."""
    right, kept = [], []
    for picture, question in asked:
        answer = vlm.generate(question.text, images=[picture], budget=budget, max_new_tokens=NEW_TOKENS)
        right.append(answer.text.strip() == question.answer)
        kept += answer.tokens_per_picture
    return np.array(right), np.array(kept)


def _percent(right: np.ndarray) -> str:
    return f"{100 * right.mean():.1f} %"


if __name__ == "__main__":
    main()
