"""Knows how a variant of a grid becomes a folder beside the others."""

import os
from pathlib import Path

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.files import fresh_name, user_path
from pocketvlm_export import pipeline
from pocketvlm_export.candidates.grid import Grid
from pocketvlm_export.kept_files import KeptFiles

_SHARED = 1 << 20  # bytes: smaller files are not worth a link


def make_variant(model: str, grid: Grid, name: str, root: str | os.PathLike[str]) -> Path:
    """Export the variant called ``name`` unless it is there; returns its folder, see
    `candidates.make`."""
    variant = grid.named(name)
    target = user_path(root) / grid.folder(variant)
    folder = target.parent
    if (target / MANIFEST_NAME).exists():
        return target
    pipeline.export(model, target, variant.options, kept=KeptFiles(folder / "shared"))
    _share(target, folder)
    return target


def _share(target: Path, folder: Path) -> None:
    """Replace weights of ``target`` by links to the very same bytes in another variant: towers that
    differ in a method have one set."""
    others = [path for path in folder.glob("*/onnx/*.onnx_data") if path.parent.parent != target]
    by_size: dict[int, list[Path]] = {}
    for path in others:
        by_size.setdefault(path.stat().st_size, []).append(path)
    for path in target.glob("onnx/*.onnx_data"):
        info = path.stat()
        if info.st_size < _SHARED or info.st_nlink > 1:
            continue
        for other in by_size.get(info.st_size, ()):
            if _same(path, other):
                _link(other, path)
                break


def _same(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(1 << 20):
            if block != second.read(1 << 20):
                return False
    return True


def _link(source: Path, target: Path) -> None:
    """Put a link in the place of ``target`` in one step; a disk without links keeps the copy."""
    beside = fresh_name(target, ".tmp")
    try:
        os.link(source, beside)
    except OSError:
        return
    beside.replace(target)
