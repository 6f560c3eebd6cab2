"""Knows where a checkpoint is written: into a new folder, which appears whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files.folders import content_of, put_in_place, staged
from pocketvlm.files.interrupts import heeded


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a folder to write in, which becomes ``output`` at the end of the block.

    Raises:
        RequestError: something is there already, or appears there meanwhile.
    """
    target = output.resolve()
    if target.exists() and (not target.is_dir() or content_of(target)):
        raise RequestError(f"{output} exists already", advice="remove it, or name another folder")
    with heeded(), staged(target) as folder:
        yield folder
        put_in_place(folder, target, ())
