"""Knows what may be written where: what is refused before any work, and how a folder looked when it
was."""

import os
import shutil
from pathlib import Path

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.errors import RequestError
from pocketvlm.files import real_path
from pocketvlm.files.folders import Content, content_of

_MARGIN = 64 << 20  # bytes kept free beside what is estimated


def replaceable(target: Path, *, overwrite: bool) -> Content:
    """The content of what an export to ``target``, a resolved path, may replace: of the artifact
    there, if ``overwrite`` is set. Whatever comes later may not be.

    Raises:
        RequestError: it cannot be read.
    """
    if not overwrite or not (target / MANIFEST_NAME).exists():
        return ()
    try:
        return content_of(target)
    except OSError as error:
        raise RequestError(
            f"{target} cannot be read ({error.strerror})",
            advice="choose another folder",
            setting="output",
        ) from error


def check_destination(output: Path, source: Path, *, overwrite: bool) -> None:
    """Refuse a destination that holds something else, cannot be replaced, or would touch the source
    checkpoint.

    Raises:
        RequestError: a file, a folder with other content, an artifact without ``overwrite``, the
            source itself, a mount point, the current folder or one above it.
    """
    target = real_path(output)
    if _overlap(target, source):
        raise RequestError(
            f"{output} overlaps the checkpoint {source}, which is never touched",
            advice="choose another folder",
            setting="output",
        )
    if os.path.ismount(target) or Path.cwd().is_relative_to(target):
        raise RequestError(
            f"{output} is a mount point or the folder you are in, which cannot be replaced as a "
            "whole",
            advice="name a folder inside it",
            setting="output",
        )
    try:
        names = [path.name for path in target.iterdir()]
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise RequestError(
            f"{output} is a file or inside one", advice="give a folder", setting="output"
        ) from error
    except OSError as error:
        raise RequestError(
            f"{output} cannot be read ({error.strerror})",
            advice="choose another folder",
            setting="output",
        ) from error
    if names and MANIFEST_NAME not in names:
        raise RequestError(
            f"{output} is not empty and holds no artifact",
            advice="choose a new or empty folder",
            setting="output",
        )
    if names and not overwrite:
        raise RequestError(
            f"{output} already holds an artifact",
            advice="give --overwrite to replace it, or another folder",
            setting="overwrite",
        )


def check_keep_failed(kept: Path, output: Path, source: Path) -> None:
    """Refuse a folder for a failed export that exists, that cannot be made, or that would touch
    anything else."""
    target = real_path(kept)
    if _overlap(target, real_path(output)) or _overlap(target, source):
        raise RequestError(
            f"--keep-failed {kept} overlaps the output or the checkpoint",
            advice="name a folder beside them",
            setting="keep_failed",
        )
    if os.path.lexists(kept):
        raise RequestError(
            f"--keep-failed {kept} exists already",
            advice="name a new folder",
            setting="keep_failed",
        )
    if not (target.parent.is_dir() and os.access(target.parent, os.W_OK)):
        raise RequestError(
            f"--keep-failed {kept} cannot be made in {target.parent}",
            advice="create that folder first",
            setting="keep_failed",
        )


def check_space(output: Path, needed: int) -> None:
    """Refuse to begin where ``needed`` bytes do not fit; raises `RequestError`."""
    parent = next(folder for folder in real_path(output).parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed + _MARGIN:
        raise RequestError(
            f"{parent} has {free / 1e9:.1f} GB free, the export needs about "
            f"{(needed + _MARGIN) / 1e9:.1f} GB",
            advice="free some space or choose another disk",
            setting="output",
        )


def _overlap(a: Path, b: Path) -> bool:
    return a.is_relative_to(b) or b.is_relative_to(a)
