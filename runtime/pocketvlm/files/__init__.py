"""Knows how a file is written so that no other process reads half of it, and no link beside it is
followed; how text that people edit is read; and what people mean by a path."""

import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pocketvlm.files.flock import NO_LOCKS, try_lock
from pocketvlm_targets.text import decode_text
from pocketvlm_targets.text import user_path as user_path  # for all that is not a target

_log = logging.getLogger(__name__)

_ABANDONED = 3600.0  # seconds; a file that is still being written is younger
_ATTEMPTS = 100  # so often in a row nobody is that unlucky
_LOCKING = os.name == "posix"  # elsewhere no other process could rename or remove it
# Exclusively: a link in its place is not followed, and another's file is not opened.
_NEW = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)  # not on Windows
    | getattr(os, "O_BINARY", 0)  # on Windows
)
_LONG = 200  # bytes of a name that leave no room for what `fresh_name` adds: 255 is the most


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all, as what a person asked for.

    It is written beside under a name that nobody can know, brought to the disk, and renamed into
    place. A link stays, and what it points at is replaced. A file that is replaced keeps its
    permissions, a new one has the umask's. A device or a pipe, as ``/dev/stdout``, is written to.

    Raises:
        OSError: it cannot be written; nothing is left behind, and what was there is as it was.
    """
    mode = None
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
    if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        with path.open("wb", buffering=0) as stream:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[stream.write(remaining) :]
        return
    _write_beside(real_path(path), data, stat.S_IMODE(mode) if mode else None)


def replace_private(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all, as a cache that is nobody else's business.

    Only its owner may read it, whatever the umask. A link in its place is replaced itself. It is
    not waited for until it is on the disk: after a power cut it may be damaged.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    _write_beside(path, data, 0o600, durable=False)


def private_folder(path: Path) -> None:
    """Make a folder, and those above it, that only its owner may enter, whatever the umask; one
    that exists stays as it is. Raises OSError."""
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    for folder in reversed(missing):
        with suppress(FileExistsError):  # made by another process just now, its own
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)
    if not path.is_dir():
        path.mkdir()  # a file: raises what is wrong


def real_path(path: Path) -> Path:
    """What ``path`` names once its links are followed, whether it exists or not; of a loop of links
    some name in it, where Path.resolve raises RuntimeError before Python 3.13."""
    return Path(os.path.realpath(path))


def fresh_name(path: Path, suffix: str) -> Path:
    """A name beside ``path`` that nobody can know beforehand: hidden, and ending in ``suffix``."""
    return path.with_name(f".{label(path.name)}.{secrets.token_hex(8)}{suffix}")


def leftovers(path: Path, suffix: str) -> list[Path]:
    """What lies beside ``path`` under a name that `fresh_name` made, sorted; links are none of
    it. Raises OSError."""
    name = re.compile(
        rf"\.{re.escape(label(path.name))}\.[0-9a-f]{{16}}{re.escape(suffix)}", re.DOTALL
    )
    with os.scandir(path.parent) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if name.fullmatch(entry.name) and not entry.is_symlink()
        )


def remove_abandoned(paths: Iterable[Path]) -> list[Path]:
    """Remove those of the files that nobody writes any longer, and return their names: whoever
    writes one has it locked. Where there are no locks, those that have not changed for an hour."""
    return [path for path in paths if _removed(path)]


def _removed(path: Path) -> bool:
    """Whether a file was nobody's any longer, and is gone now."""
    try:
        if not _LOCKING:
            if time.time() - path.lstat().st_mtime <= _ABANDONED:
                return False
            path.unlink()
            return True
        descriptor = _lockable(path)
        try:
            try_lock(descriptor)
            path.unlink()  # while it is locked: nobody begins to write it
        finally:
            os.close(descriptor)
    except OSError:  # locked by whoever writes it, or a disk without locks
        return False
    return True


def _lockable(path: Path) -> int:
    """A descriptor for `try_lock`; of a file that is read-only one that some disks do not lock."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)


def label(name: str) -> str:
    """The name itself, or where it is so long that nothing can be put before and behind it,
    something short that no other name has."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONG:
        return name
    return f"{name[:20]}~{hashlib.sha256(encoded).hexdigest()[:32]}"


def _write_beside(place: Path, data: bytes, mode: int | None, *, durable: bool = True) -> None:
    for _ in range(_ATTEMPTS):
        with suppress(_TakenError):
            _write_as(fresh_name(place, ".tmp"), place, data, mode, durable=durable)
            break
    else:
        raise OSError(f"every new file beside {place} is removed at once")
    with suppress(OSError):  # what processes that were killed while they wrote it have left
        for left in remove_abandoned(leftovers(place, ".tmp")):
            level = logging.WARNING if durable else logging.DEBUG  # of caches nobody need know
            _log.log(level, "%s was left by a run that was killed, and is removed", left)


def _write_as(beside: Path, place: Path, data: bytes, mode: int | None, *, durable: bool) -> None:
    """Write under one name, then rename. Raises OSError; nothing is left then."""
    try:
        with _new_file(beside, 0o666 if mode is None else mode) as stream:
            if mode is not None:
                beside.chmod(mode)  # what the umask took away
            stream.write(data)
            stream.flush()
            if durable:  # an error that comes late, or a power cut, must not find half of it
                os.fsync(stream.fileno())
            if _LOCKING:  # while it is locked, so that nobody takes it for abandoned
                beside.replace(place)
        if not _LOCKING:  # Windows renames no open file
            beside.replace(place)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


class _TakenError(OSError):
    """Another process has taken a new file for abandoned, in the moment before it was locked."""


def _new_file(path: Path, mode: int) -> BinaryIO:
    """A new file that is open and locked. Raises OSError."""
    descriptor = os.open(path, _NEW, mode)
    try:
        if _LOCKING:
            try:
                try_lock(descriptor)
                if not os.path.samestat(path.lstat(), os.fstat(descriptor)):
                    raise _TakenError
            except (BlockingIOError, FileNotFoundError) as error:
                raise _TakenError from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
        return os.fdopen(descriptor, "wb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: Path) -> str:
    """The text of a file that people edit, see `decode_text`, without a byte order mark and with
    lines that end in ``\n``. Raises OSError, or ValueError with the reason if it is not UTF-8."""
    return decode_text(path.read_bytes())
