"""Knows how one process keeps others off a path, in a way that no kill leaves locked."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files import label, real_path
from pocketvlm.files.flock import NO_LOCKS, try_lock

_log = logging.getLogger(__name__)

# A lock file that vanishes between being opened and being locked means that its holder has just
# ended. So many in a row do not happen by chance.
_ATTEMPTS = 100
_PAUSE = 0.02  # seconds between two attempts of one who waits


@contextmanager
def locked(path: Path, *, advice: str, setting: str = "", wait: float = 0) -> Iterator[bool]:
    """Keep every other `locked` on ``path``, of any process or thread, out of the block. Gives
    whether that is certain.

    The lock is the operating system's, on an empty file ``.NAME.lock`` beside ``path``, so it ends
    with the process however that ends. A lock file that a kill left behind locks nothing. Links are
    followed first: two names of one file or folder share a lock. ``path`` need not exist; the
    folder that it lies in must. On a disk that knows no locks the block runs without, after a
    warning.

    Args:
        path: a file or a folder.
        advice: what to do where it is locked, see `PocketVLMError`.
        setting: the setting that named ``path``, see `PocketVLMError`.
        wait: seconds to wait for the other process, where its work is short.

    Raises:
        RequestError: another process is at work on ``path``, at once unless ``wait`` is given; or
            the folder that it lies in takes no lock file.
    """
    target = real_path(path)
    beside = target.with_name(f".{label(target.name)}.lock")
    try:
        lock = _acquire(beside)
        until = time.monotonic() + wait
        while lock is None and time.monotonic() < until:
            time.sleep(_PAUSE)
            lock = _acquire(beside)
    except OSError as error:
        raise RequestError(
            f"{path} cannot be locked ({error.strerror or type(error).__name__})",
            advice=f"name another place, or remove {beside.name} there",
            setting=setting,
        ) from error
    if lock is None:
        raise RequestError(f"another process is writing {path}", advice=advice, setting=setting)
    descriptor, is_certain = lock
    try:
        yield is_certain
    finally:
        _release(beside, descriptor)


def _acquire(beside: Path) -> tuple[int, bool] | None:
    """A locked descriptor of the file ``beside``, made where it is missing, and whether the disk
    knows locks; None where another holds it. Raises OSError where the file is impossible."""
    # A link is not a lock file of ours: O_NOFOLLOW (not on Windows) keeps it from being opened.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    for _ in range(_ATTEMPTS):
        descriptor = os.open(beside, flags, 0o600)
        try:
            is_certain = _lock(descriptor, beside)
            if _is_still(beside, descriptor):
                return descriptor, is_certain
        except (BlockingIOError, PermissionError):  # EAGAIN of flock; EACCES of Windows
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def _lock(descriptor: int, beside: Path) -> bool:
    """Lock an open file, and return True; with a warning in place of a lock, and False, where the
    disk knows none."""
    try:
        try_lock(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _log.warning("the disk of %s knows no locks: start nothing else that writes there", beside)
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether ``descriptor`` is the file that ``path`` names: its last holder may have removed
    it."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(beside: Path, descriptor: int) -> None:
    if sys.platform == "win32":
        # It removes no file that is open, here or by the process that waits to lock it.
        os.close(descriptor)
        with suppress(OSError):
            beside.unlink()
    else:
        # While it is locked, so that nobody else's lock file is removed.
        with suppress(OSError):
            beside.unlink()
        os.close(descriptor)
