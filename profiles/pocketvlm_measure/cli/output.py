"""Knows how commands that measure write their results to files, in one step, and say in which
precision they measure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pocketvlm.cli.terminal import echo, printable
from pocketvlm.errors import RequestError
from pocketvlm.files import real_path, replace_file

if TYPE_CHECKING:
    from pocketvlm.artifact.pair import Choice


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path] = ()) -> None:
    """Refuse files that cannot be written, before any work.

    Raises:
        RequestError: a folder does not exist or takes no files, a folder is in the file's place,
            the file is one of the ``inputs``, or two outputs are the same file.
    """
    read = {real_path(path) for path in inputs}
    written: set[Path] = set()
    for path in outputs:
        if not path.parent.is_dir():
            raise RequestError(
                f"no such folder: {path.parent}", advice=f"make it, or write {path.name} elsewhere"
            )
        problem = None
        if path.is_dir():
            problem = "is a folder"
        elif real_path(path) in read:
            problem = "is read by this command"
        elif real_path(path) in written:
            problem = "is named for two outputs"
        elif (not path.exists() or path.is_file()) and not os.access(path.parent, os.W_OK):
            problem = "lies in a folder that takes no files"
        if problem is not None:
            raise RequestError(f"{path} {problem}", advice="name another file to write")
        if not path.exists() or path.is_file():  # a device may take several
            written.add(real_path(path))


def print_choice(chosen: Choice | None) -> None:
    """Print to stderr which decoders answer, where that was chosen, and why."""
    if chosen is not None:
        echo(printable(f"decoder {chosen.precision}: {chosen.reason}"), err=True)


def write_text(path: Path, text: str) -> None:
    """Write a file in one step; raises `PocketVLMError`."""
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise RequestError(
            f"{path} cannot be written ({error.strerror})", advice="give another file"
        ) from error
