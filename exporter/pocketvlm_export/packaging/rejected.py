"""Knows how a folder that fails the gate is kept where that was asked for."""

import errno
import shutil
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files.folders import allow_others, rename_to_free


def keep(folder: Path, kept: Path) -> None:
    """Move a folder that fails the gate to where it was asked for, and never into anything that is
    there by now.

    Raises:
        RequestError: something is there, or it cannot be written; nothing of it is left.
    """
    try:
        allow_others(folder)
        kept.mkdir()
        try:
            rename_to_free(folder, kept)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(folder, kept)
    except OSError as error:
        raise RequestError(
            f"--keep-failed {kept} cannot be written ({error.strerror or error})",
            advice="name a new folder",
            setting="keep_failed",
        ) from error


def _copy(folder: Path, kept: Path) -> None:
    """Copy to another disk."""
    kept.mkdir(exist_ok=True)  # `rename_to_free` has made room for the folder
    try:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)
        raise
