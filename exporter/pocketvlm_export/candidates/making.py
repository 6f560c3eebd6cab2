"""Knows how a variant of a grid becomes a folder beside the others."""

import os
from pathlib import Path

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.files import user_path
from pocketvlm_export import pipeline
from pocketvlm_export.candidates.grid import Grid
from pocketvlm_export.kept_files import KeptFiles

_SHARED = "shared"  # the folder of files that all variants link to


def make_variant(model: str, grid: Grid, name: str, root: str | os.PathLike[str]) -> Path:
    """Export the variant called ``name`` unless it is there; returns its folder, see
    `candidates.make`."""
    variant = grid.named(name)
    target = user_path(root) / grid.folder(variant)
    if not (target / MANIFEST_NAME).exists():
        kept = KeptFiles(target.parent / _SHARED)
        pipeline.export(model, target, variant.options, kept=kept)
    return target
