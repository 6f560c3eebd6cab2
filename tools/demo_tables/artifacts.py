"""Knows which artifacts of the demo are measured: one of every pruning method, and one with every
engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pocketvlm.artifact.stages import Stage
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.gguf_types import GGUF_TYPES
from pocketvlm_export.precisions import names_for
from pocketvlm_export.pruning import PRUNERS, find_pruner

BUDGETS = (144, 72, 36, 14, 7)  # 100, 50, 25, 10 and 5 % of the patches
SEEDS = 3  # of a method that draws at random
FASTV = "fastv"
FASTV_LAYER = 2  # of the demo's 4: those below it read every token


def methods() -> Iterator[tuple[str, Mapping[str, str]]]:
    """(name, options) of every method that prunes, once per draw."""
    for name in PRUNERS:
        method = find_pruner(name)
        if method.prunes:
            seeds = range(SEEDS) if "seed" in method.accepts else [None]
            yield from ((name, {} if seed is None else {"seed": str(seed)}) for seed in seeds)


def export_method(build: Path, name: str, options: Mapping[str, str]) -> Path:
    """The folder of the demo pruned by a method, exported where it does not exist yet."""
    budgets = BUDGETS[:1] if find_pruner(name).nested else BUDGETS
    folder = build / "-".join([name, *options.values()])
    return _export(folder, ExportOptions(pruner=name, pruner_options=options, budgets=budgets))


def export_fastv(build: Path, keep: int) -> Path:
    """The folder of the demo with ``keep`` of all tokens kept from `FASTV_LAYER` of its
    decoder."""
    options = ExportOptions(pruner="none", decoder_stages=(Stage(FASTV_LAYER, keep),))
    return _export(build / f"{FASTV}-{keep}", options)


def export_engines(build: Path) -> Path:
    """The folder of the demo with every precision of tower and decoder and every GGUF type."""
    options = ExportOptions(
        "fastervlm",  # nothing is dropped, and its graph is the smallest
        budgets=BUDGETS[:1],
        decoder="both",
        vision_precisions=names_for("vision", calibrated=False),
        decoder_precisions=names_for("decoder"),
        gguf_types=tuple(GGUF_TYPES),
    )
    return _export(build / "engines", options)


def _export(folder: Path, options: ExportOptions) -> Path:
    if not (folder / "pocketvlm.json").exists():
        export("demo", folder, options)
    return folder


def graph_bytes(folder: Path, names: set[str]) -> int:
    """Bytes of these graphs of an artifact with their weights."""
    files = json.loads((folder / "pocketvlm.json").read_text())["files"]
    return sum(
        entry["bytes"] for name, entry in files.items() if name.removesuffix("_data") in names
    )
