"""Knows how a folder appears at its destination whole or not at all."""

import errno
import glob
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.errors import RequestError

_MARGIN = 64 << 20  # bytes kept free beside what is estimated
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_log = logging.getLogger(__name__)


def check_destination(output: Path, source: Path, *, overwrite: bool) -> None:
    """Refuse a destination that holds something else, cannot be replaced, or would touch the source
    checkpoint.

    Raises:
        RequestError: a file, a folder with other content, an artifact without ``overwrite``, the
            source itself, a mount point, the current folder or one above it.
    """
    target = output.resolve()
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
            f"{output} is a file or lies in one", advice="give a folder", setting="output"
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
    target = kept.resolve()
    if _overlap(target, output.resolve()) or _overlap(target, source):
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
    parent = next(folder for folder in output.resolve().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed + _MARGIN:
        raise RequestError(
            f"{parent} has {free / 1e9:.1f} GB free, the export needs about "
            f"{(needed + _MARGIN) / 1e9:.1f} GB",
            advice="free some space or choose another disk",
            setting="output",
        )


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Give a folder beside ``output``, a resolved path, to build in.

    It is removed on the way out unless `publish` moved it, and so are parents that were made for it
    and stay empty. SIGTERM and SIGHUP are turned into an exit, so that an interrupted export leaves
    nothing behind either.

    Raises:
        RequestError: the destination cannot be written, or the disk filled up meanwhile.
    """
    made = [folder for folder in output.parents if not folder.exists()]  # the nearest first
    folder: Path | None = None
    with _signals_as_exit():
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            _warn_of_leftovers(output)
            folder = Path(
                tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent)
            )
            yield folder
        except OSError as error:
            raise _cannot_write(output, error) from error
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            for parent in made:
                with suppress(OSError):  # not empty: something was published
                    parent.rmdir()


def _warn_of_leftovers(output: Path) -> None:
    """Name what killed exports left beside ``output``; whether one of them is still at work cannot
    be known here."""
    for left in sorted(output.parent.glob(f".{glob.escape(output.name)}.*.partial")):
        _log.warning(
            "%s is an export that was killed, or is still at work: remove it if it was killed", left
        )


def publish(folder: Path, output: Path) -> None:
    """Rename ``folder`` to ``output``, a resolved path, in one step.

    What was there is set aside, and put back if ``output`` is missing afterwards for whatever
    reason.
    """
    folder.chmod(0o777 & ~_umask())  # mkdtemp made it private
    aside = (
        Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
        / "artifact"
    )
    try:
        if output.exists():
            output.rename(aside)
        folder.rename(output)
    finally:
        # Asked of the disk: a signal may land anywhere between the renames.
        if aside.exists() and not output.exists():
            _put_back(aside, output)
        shutil.rmtree(aside.parent, ignore_errors=True)


def _put_back(aside: Path, output: Path) -> None:
    try:
        aside.rename(output)
    except OSError as error:
        raise RequestError(
            f"{output} could not be replaced ({error.strerror}), and what was there lies in "
            f"{aside}",
            advice="move it back",
            setting="output",
        ) from error


def _overlap(a: Path, b: Path) -> bool:
    return a.is_relative_to(b) or b.is_relative_to(a)


def _cannot_write(output: Path, error: OSError) -> RequestError:
    if error.errno in _NO_SPACE:
        return RequestError(
            f"no space left on the disk of {output}, nothing was written there",
            advice="free some space or choose another disk",
            setting="output",
        )
    return RequestError(
        f"{output} cannot be written ({error})", advice="choose another folder", setting="output"
    )


@contextmanager
def _signals_as_exit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # One that is ignored, as nohup does it, stays ignored.
    previous = {
        number: signal.signal(number, leave)
        for number in numbers
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
