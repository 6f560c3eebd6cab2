"""Knows how many of the pasted things keep a patch: what a method leaves for the decoder to read,
whatever the decoder makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pocketvlm.artifact import MANIFEST_NAME, Artifact
from pocketvlm.vision.overlay import draw_budgets, open_encoders
from pocketvlm_export.pruning import find_pruner
from pocketvlm_measure.progress import progress
from train_reference.scenes import Scene
from train_reference.things import NOUNS
from train_reference.words import targets_of


def plain_methods(folder: Path) -> dict[str, Artifact]:
    """Artifacts in the folders of ``folder`` by the title of their method: those that prune,
    without stages, and without reading the question."""
    artifacts = [Artifact.open(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
    return {
        find_pruner(artifact.manifest.pruning.method).title: artifact
        for artifact in artifacts
        if find_pruner(artifact.manifest.pruning.method).prunes
        and not artifact.manifest.vision.stages
        and not artifact.manifest.vision.selectors
    }


def kept_things(
    artifact: Artifact, asked: Sequence[tuple[Scene, Image.Image]], budgets: Sequence[int]
) -> dict[int, float]:
    """For each budget the share of things of which at least one patch is kept: one that a thing
    covers by half or more."""
    encoders = open_encoders(artifact, budgets)
    seen: dict[int, list[bool]] = {budget: [] for budget in budgets}
    for scene, picture in progress(asked, desc=artifact.manifest.pruning.method, unit="picture"):
        side = int(artifact.manifest.pruning.tokens_before**0.5)
        nouns = targets_of([scene], side)[0, :, 0].numpy()  # 0: nothing
        for budget, (_, kept) in draw_budgets(artifact, picture, budgets, encoders).items():
            left = set(nouns[kept].tolist())
            seen[budget] += [1 + NOUNS.index(thing.noun) in left for thing in scene.things]
    return {budget: float(np.mean(of)) for budget, of in seen.items()}


def table(shares: Mapping[str, Mapping[int, float]], tokens: int) -> str:
    """Markdown: a row a method, the best at the fewest tokens first; per cent of the things."""
    budgets: list[int] = sorted(next(iter(shares.values())), reverse=True)
    head = [f"{budget / tokens:.0%} ({budget})" for budget in budgets]
    lines = [f"| method | {' | '.join(head)} |", f"|---|{'---|' * len(head)}"]
    rows: Iterable[tuple[str, Mapping[int, float]]] = sorted(
        shares.items(), key=lambda row: -row[1][budgets[-1]]
    )
    lines += [
        f"| {method} | {' | '.join(f'{100 * of[budget]:.1f}' for budget in budgets)} |"
        for method, of in rows
    ]
    return "\n".join(lines)
