"""Knows how a folder appears at its destination whole or not at all."""

import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pocketvlm import PocketVLMError
from pocketvlm.artifact import MANIFEST_NAME

_MARGIN = 64 << 20  # bytes kept free beside what is estimated
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_destination(output: Path, source: Path, *, overwrite: bool) -> None:
    """Refuse a destination that holds something else, or that would touch the source checkpoint.

    Raises:
        PocketVLMError: a file, a folder with other content, an artifact without ``overwrite``, the source itself.
    """
    target = output.resolve()
    if target == source or source.is_relative_to(target) or target.is_relative_to(source):
        raise PocketVLMError(
            f"{output} overlaps the checkpoint {source}, which is never touched: choose another folder"
        )
    if output.exists() and not output.is_dir():
        raise PocketVLMError(f"{output} is a file: give a folder")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / MANIFEST_NAME).is_file():
        raise PocketVLMError(f"{output} is not empty and holds no artifact: choose a new or empty folder")
    if not overwrite:
        raise PocketVLMError(f"{output} already holds an artifact: give --overwrite to replace it, or another folder")


def check_space(output: Path, needed: int) -> None:
    """Refuse to begin where ``needed`` bytes do not fit; raises `PocketVLMError` with both figures."""
    parent = next(folder for folder in output.resolve().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed + _MARGIN:
        raise PocketVLMError(
            f"{parent} has {free / 1e9:.1f} GB free, the export needs about {(needed + _MARGIN) / 1e9:.1f} GB: "
            "free some space or choose another disk"
        )


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Give a folder beside ``output`` to build in; it is removed on the way out unless `publish` moved it.

    SIGTERM is turned into an exit, so that an interrupted export leaves nothing behind either.

    Raises:
        PocketVLMError: the destination cannot be written, or the disk filled up meanwhile.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise PocketVLMError(f"cannot write beside {output} ({error.strerror}): choose another folder") from error
    try:
        with _sigterm_as_exit():
            yield folder
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise PocketVLMError(
                f"no space left on the disk of {output}: nothing was written there; free some space or choose "
                "another disk"
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, output: Path) -> None:
    """Rename ``folder`` to ``output`` in one step; what was there is set aside, and put back if the rename fails."""
    folder.chmod(0o777 & ~_umask())  # mkdtemp made it private
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent)) / "artifact"
    try:
        if output.exists():
            output.rename(aside)
        try:
            folder.rename(output)
        except BaseException:
            if aside.exists():
                aside.rename(output)
            raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
