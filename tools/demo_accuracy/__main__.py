"""Exact match of the demo checkpoint on held-out questions: ``PYTHONPATH=tools python -m demo_accuracy``.

Unpruned through Hugging Face's ``generate``, then at fewer visual tokens for FasterVLM, evenly spaced and random
patches, with McNemar's exact test on the paired answers. ``--page`` writes the tables between a page's markers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from scipy.stats import binomtest
from tqdm import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration

from demo_accuracy.answers import PrunedModel, Selection, evenly_spaced, fastervlm, generate_answers, random_choice
from page_section import replace_section
from train_demo.__main__ import DEMO
from train_demo.scenes import KINDS, Question, question_set

SHARES = (50, 25, 10, 5)  # per cent of the patches
SEEDS = 3


@click.command(help=__doc__)
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), default=DEMO, help="The demo checkpoint.")
@click.option("--generated", default=1_000, show_default=True, help="Questions through generate(), unpruned.")
@click.option("--pruned", default=2_000, show_default=True, help="Questions for the table of budgets.")
@click.option("--original-positions", is_flag=True, help="Keep the positions that the patches had before pruning.")
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Write the tables into this file.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    checkpoint: Path, generated: int, pruned: int, original_positions: bool, page: Path | None, output: Path | None
) -> None:
    """Measure, print, and write where asked."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(checkpoint)
    model.eval()
    by_kind = measure_unpruned(model, processor, generated)
    rows = measure_pruned(model, processor, pruned, original_positions)
    figures = {"generated": by_kind, "pruned": rows}
    text = f"{kinds_table(by_kind, generated)}\n\n{budgets_table(rows, pruned)}"
    click.echo(text)
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n")
    if page:
        replace_section(page, "demo-accuracy", text)


def measure_unpruned(model: LlavaForConditionalGeneration, processor: AutoProcessor, count: int) -> dict[str, float]:
    """Exact match by kind of question, ``overall`` first, in per cent."""
    asked = list(question_set("test", count))
    texts = generate_answers(model, processor, asked)
    right = np.array([text == question.answer for text, (_, question) in zip(texts, asked, strict=True)])
    kinds = np.array([question.kind for _, question in asked])
    return {"overall": 100 * right.mean()} | {kind: 100 * right[kinds == kind].mean() for kind in KINDS}


def measure_pruned(
    model: LlavaForConditionalGeneration, processor: AutoProcessor, count: int, original_positions: bool
) -> list[dict[str, object]]:
    """One row a share of the patches: exact match (per cent) of every selection, p of FasterVLM against each."""
    asked = list(question_set("test", count))
    asked_questions = [question for _, question in asked]
    pruned = PrunedModel(model, processor)
    features, scores = pruned.encode([picture for picture, _ in asked])
    patches = features.shape[1]
    selections: dict[str, list[Selection]] = {
        "fastervlm": [fastervlm],
        "evenly spaced": [evenly_spaced],
        "random": [random_choice(seed) for seed in range(SEEDS)],
    }

    def right(select: Selection, budget: int) -> np.ndarray:
        kept = np.stack([select(row, budget, i) for i, row in enumerate(scores)])
        texts = pruned.answers(features, kept, asked_questions, original_positions)
        return right_answers(texts, asked_questions)

    full = right(fastervlm, patches)
    rows: list[dict[str, object]] = [{"share": 100, "budget": patches, "fastervlm": 100 * float(full.mean())}]
    for share in tqdm(SHARES, desc="budgets", disable=None):
        budget = round(patches * share / 100)
        found = {name: [right(select, budget) for select in selects] for name, selects in selections.items()}
        row: dict[str, object] = {"share": share, "budget": budget}
        row |= {name: 100 * float(np.mean(arrays)) for name, arrays in found.items()}
        ours = found["fastervlm"][0]
        row |= {f"p {name}": [mcnemar(ours, other) for other in found[name]] for name in ("evenly spaced", "random")}
        rows.append(row)
    return rows


def right_answers(texts: Sequence[str], asked: Sequence[Question]) -> np.ndarray:
    """Which answers are right to the letter, bool (n,)."""
    return np.array([text == question.answer for text, question in zip(texts, asked, strict=True)])


def mcnemar(ours: np.ndarray, other: np.ndarray) -> float:
    """Two-sided exact p of McNemar's test: a binomial test on the questions that only one of the two answers."""
    only_ours, only_other = int((ours & ~other).sum()), int((other & ~ours).sum())
    return float(binomtest(only_ours, only_ours + only_other).pvalue) if only_ours + only_other else 1.0


def kinds_table(by_kind: dict[str, float], count: int) -> str:
    """Markdown: exact match by kind."""
    head = f"Unpruned, {count} held-out questions through Hugging Face's `generate`, exact match in per cent:\n\n"
    names, values = " | ".join(by_kind), " | ".join(f"{v:.1f}" for v in by_kind.values())
    return f"{head}| {names} |\n|{'---|' * len(by_kind)}\n| {values} |"


def budgets_table(rows: list[dict[str, object]], count: int) -> str:
    """Markdown: exact match by budget; p is the largest over the random seeds."""
    lines = [
        f"Exact match on {count} held-out questions by the share of visual tokens kept ({SEEDS} random seeds, averaged;"
        " p: McNemar's exact test of FasterVLM against the column to its left, the largest over the seeds):\n",
        "| kept | FasterVLM | of the unpruned score | evenly spaced | p | random | p |",
        "|---|---|---|---|---|---|---|",
    ]
    full = float(str(rows[0]["fastervlm"]))
    for row in rows:
        ours = float(str(row["fastervlm"]))
        cells = [f"{row['share']} % ({row['budget']})", f"{ours:.1f}", f"{100 * ours / full:.1f} %"]
        for name in ("evenly spaced", "random"):
            values = row.get(f"p {name}")
            cells += [f"{row[name]:.1f}", f"{max(values):.1g}"] if isinstance(values, list) else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
