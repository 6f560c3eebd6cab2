"""Knows how a folder appears at its destination whole or not at all, and what becomes of what was
there.

| beside the destination | what it is | the next run that writes there |
|---|---|---|
| ``.NAME.<random>.partial`` | being built, or no longer needed | removes it |
| ``.NAME.<random>.old`` | what was there, while its successor takes its place | puts it back, \
removes it where its successor is in place, else names it |
| ``.NAME.lock`` | locked by the run at work | takes it over |

On a disk without locks they are named and stay: they may be of a run at work.

Where the system can, old and new change places in one step: whoever opens the destination meanwhile
gets one of the two.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files import fresh_name, leftovers
from pocketvlm.files.exchange import exchange
from pocketvlm.files.interrupts import held
from pocketvlm.files.locks import locked
from pocketvlm_targets.text import parse_json

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PARTIAL, _OLD = ".partial", ".old"
_ASIDE, _NOTE = "artifact", "successor"  # in a folder that ends in `_OLD`
_log = logging.getLogger(__name__)

Content = tuple[tuple[str | int, ...], ...]


def content_of(folder: Path) -> Content:
    """Everything in a folder, by relative name, and what the system says of it: other values after
    any change, the same ones after the folder is renamed.

    Device and inode of the folder and those in it; of a file its size, time of modification and of
    change too. Nothing where there is no folder, or an empty one. Raises OSError.
    """
    rows = list(_rows(folder))
    if not rows:
        return ()
    info = folder.stat()
    return ((".", info.st_dev, info.st_ino), *sorted(rows))


@contextmanager
def staged(destination: Path, *, setting: str = "output", wait: float = 0) -> Iterator[Path]:
    """Give a folder beside ``destination``, a resolved path, to build in; nothing else that writes
    to the same destination is let in meanwhile.

    It is removed on the way out unless `put_in_place` moved it, and so are parents that were made
    for it and stay empty. First the leftovers of runs that were killed are named and dealt with,
    see the module.

    Args:
        destination: where the folder is to appear.
        setting: what named it, see `PocketVLMError`.
        wait: seconds to wait for another process that writes there.

    Raises:
        RequestError: another process writes there, the destination cannot be written or moved, or
            the disk filled up meanwhile.
    """
    made = [folder for folder in destination.parents if not folder.exists()]  # the nearest first
    folder = fresh_name(destination, _PARTIAL)
    advice = "wait until it has ended, or choose another folder"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with locked(destination, advice=advice, setting=setting, wait=wait) as is_certain:
            if is_certain:  # else they may be of a run at work
                _recover(destination, setting)
            else:
                _name_leftovers(destination)
            try:
                folder.mkdir(mode=0o700)
                _check_movable(destination, folder)
                yield folder
            finally:
                with held():
                    _remove(folder)
    except OSError as error:
        raise _cannot_write(destination, error, setting) from error
    finally:
        for parent in made:
            with suppress(OSError):  # not empty: something was put in place
                parent.rmdir()


def put_in_place(
    folder: Path, destination: Path, before: Content, *, setting: str = "output"
) -> None:
    """Let ``folder`` become ``destination``, a resolved path, in one step.

    What is replaced is what was there ``before``, and nothing else: it is looked at again, and
    stays if it has changed. An interrupt waits until either of the two is in place.

    Args:
        folder: what `staged` gave.
        destination: as given to `staged`.
        before: what it held when the work began and may be replaced, see `content_of`.
        setting: as given to `staged`.

    Raises:
        RequestError: something appeared at ``destination``, or changed there, since it was looked
            at; it is as it was, and nothing is put there.
    """
    allow_others(folder)
    bring_to_disk(folder)
    _check_unchanged(destination, destination, before, setting)
    with held():
        if before:
            _replace(folder, destination, before, setting)
        else:
            _place(folder, destination, setting)
    bring_to_disk(destination.parent, within=False)


def bring_to_disk(folder: Path, *, within: bool = True) -> None:
    """Wait until a folder is on the disk, and what lies in it: an error that comes late, or a power
    cut, must not find a part of it in place. Raises OSError."""
    for path in [folder, *(folder.rglob("*") if within else ())]:
        is_folder = path.is_dir()
        if is_folder and os.name == "nt":  # which has no such call for folders
            continue
        # Read-only is enough but for Windows, and files that are linked may be others'.
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:
            if not is_folder:  # some disks know it of files only
                raise
        finally:
            os.close(descriptor)


def rename_to_free(source: Path, target: Path) -> None:
    """Rename, and replace nothing but an empty folder. Raises OSError."""
    is_folder = source.is_dir() and not source.is_symlink()
    if is_folder or os.name == "nt":  # Windows renames to no name that is taken
        with suppress(OSError):
            target.rmdir()  # anything but an empty folder stays, and is not replaced by a folder
        source.rename(target)
    else:  # of two files the second would be replaced
        os.link(source, target, follow_symlinks=False)
        source.unlink()


def allow_others(folder: Path) -> None:
    """Give a folder that was made private the permissions of any that is made here."""
    sample = folder / "permissions"
    sample.mkdir()  # not by os.umask, which other threads' files would meanwhile go by
    mode = sample.stat().st_mode & 0o777
    sample.rmdir()
    folder.chmod(mode)


def _rows(root: Path) -> Iterator[tuple[str | int, ...]]:
    waiting = [("", root)]  # not by recursion: somebody else's folders are as deep as they like
    while waiting:
        prefix, folder = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            name, info = f"{prefix}{entry.name}", Path(entry.path).lstat()
            if entry.is_dir(follow_symlinks=False):
                yield name, info.st_dev, info.st_ino
                waiting.append((f"{name}/", Path(entry.path)))
            else:
                state = info.st_size, info.st_mtime_ns, info.st_ctime_ns
                yield name, info.st_dev, info.st_ino, *state


def _check_movable(destination: Path, folder: Path) -> None:
    """Raise OSError (EXDEV) for a folder that its disk does not rename, before there is any work to
    lose: one in a lower layer of an overlay, as containers have, is not.

    It is renamed to an empty ``folder`` of ours that gets a file first, which every system refuses.
    """
    if destination.is_symlink() or not destination.is_dir() or not any(destination.iterdir()):
        return
    obstacle = folder / "obstacle"
    obstacle.touch()
    try:
        os.rename(destination, folder)  # noqa: PTH104 - no step of replacing it
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise
    obstacle.unlink()


def _place(folder: Path, destination: Path, setting: str) -> None:
    """Put ``folder`` where nothing was, or an empty folder."""
    try:
        rename_to_free(folder, destination)
    except OSError as error:
        if os.path.lexists(destination):
            raise _changed(destination, (), setting) from error
        raise


def _replace(folder: Path, destination: Path, before: Content, setting: str) -> None:
    """Put ``folder`` in the place of what was there ``before``."""
    aside = fresh_name(destination, _OLD)
    aside.mkdir(mode=0o700)
    try:
        _write_note(aside, folder, before)
        folder.rename(aside / _ASIDE)
        if exchange(aside / _ASIDE, destination):
            try:
                _check_unchanged(aside / _ASIDE, destination, before, setting)
            except BaseException:
                exchange(aside / _ASIDE, destination)
                raise
        else:  # in two steps, between which there is nothing
            (aside / _ASIDE).rename(folder)
            destination.rename(aside / _ASIDE)
            _check_unchanged(aside / _ASIDE, destination, before, setting)
            rename_to_free(folder, destination)
    finally:
        # Asked of the disk, not of what has run so far.
        if (problem := _settle(aside, destination, setting)) is not None:
            raise problem


def _write_note(aside: Path, folder: Path, before: Content) -> None:
    """Write down which folder is the successor, and of what: on the disk before anything moves."""
    info = folder.stat()
    note = {"successor": [info.st_dev, info.st_ino], "before": _digest(before)}
    (aside / _NOTE).write_text(json.dumps(note), encoding="utf-8")
    bring_to_disk(aside)


def _name_leftovers(destination: Path) -> None:
    """Say what lies beside ``destination``, where no lock tells whether somebody works on it."""
    for suffix in (_PARTIAL, _OLD):
        for left in leftovers(destination, suffix):
            _log.warning("%s is of another run, or was left by one that was killed", left)


def _recover(destination: Path, setting: str) -> None:
    """Name and deal with what killed runs left beside ``destination``, which is locked."""
    for left in filter(_is_ours, leftovers(destination, _PARTIAL)):
        _log.warning("%s was left by a run that was killed, and is removed", left)
        _remove(left)
    for aside in filter(_is_ours, leftovers(destination, _OLD)):
        _log.warning("%s was left by a run that was killed", aside)
        if (problem := _settle(aside, destination, setting)) is not None:
            _log.warning("%s", problem)


def _is_ours(left: Path) -> bool:
    """Whether a leftover is this user's: another's may be planted, to be put in place."""
    return os.name == "nt" or left.lstat().st_uid == os.geteuid()


def _settle(aside: Path, destination: Path, setting: str) -> RequestError | None:
    """End what was begun with a folder that holds what was at ``destination``, or its successor:
    remove the first if the second is in place, put it back if nothing is; else say where it lies,
    and leave it."""
    old, note = aside / _ASIDE, _read_note(aside / _NOTE)
    if os.path.lexists(old) and not _is_successor(old, note):
        problem = ""
        if _is_successor(destination, note):
            if _digest(content_of(old)) != note.get("before"):  # changed before it was replaced
                problem = "was replaced although it had changed"
        else:
            try:
                rename_to_free(old, destination)
            except OSError as error:
                problem = f"could not be replaced ({error.strerror})"
            else:
                _log.warning("%s was not replaced: what was there before is back", destination)
        if problem:
            return RequestError(
                f"{destination} {problem}, and its old content is in {old}",
                advice="move it back, or remove it",
                setting=setting,
            )
    # First a name that says that it is no longer needed: removing it may be cut short.
    unneeded = fresh_name(destination, _PARTIAL)
    with suppress(OSError):
        aside.rename(unneeded)
    _remove(unneeded)
    _remove(aside)
    return None


def _remove(folder: Path) -> None:
    """Remove a folder and all in it, or say that it stays.

    `shutil.rmtree` goes down by recursion, with a file open for each level. Nobody else may enter
    the folder, so none of what lies in it becomes a link meanwhile.
    """
    folders = [] if folder.is_symlink() else [folder]
    for each in folders:  # which grows
        with suppress(OSError), os.scandir(each) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108 - of thousands
    for each in reversed(folders):
        with suppress(OSError):
            each.rmdir()
    if os.path.lexists(folder):
        _log.warning("%s cannot be removed: the next run tries again", folder)


def _read_note(path: Path) -> dict[str, object]:
    """What `_write_note` wrote; nothing where it was cut off."""
    try:
        note = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _is_successor(folder: Path, note: dict[str, object]) -> bool:
    """Whether ``folder`` is the one that a note was written of."""
    try:
        info = folder.lstat()
    except OSError:
        return False
    return note.get("successor") == [info.st_dev, info.st_ino]


def _digest(content: Content) -> str:
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()


def _check_unchanged(there: Path, destination: Path, before: Content, setting: str) -> None:
    """Refuse to replace what lies ``there``, at ``destination`` or set aside from it, unless it is
    what was there ``before``."""
    if before:
        same = content_of(there) == before
    else:  # nothing, or an empty folder
        same = not os.path.lexists(there) or (there.is_dir() and not any(there.iterdir()))
    if not same:
        raise _changed(destination, before, setting)


def _changed(destination: Path, before: Content, setting: str) -> RequestError:
    happened = "changed" if before else "appeared"
    return RequestError(
        f"{destination} has {happened} meanwhile, and stays as it is; nothing was published",
        advice="look at it, then begin again",
        setting=setting,
    )


def _cannot_write(destination: Path, error: OSError, setting: str) -> RequestError:
    if error.errno in _NO_SPACE:
        return RequestError(
            f"no space left on the disk of {destination}, nothing was written there",
            advice="free some space or choose another disk",
            setting=setting,
        )
    if error.errno == errno.EXDEV:
        return RequestError(
            f"{destination} is not renamed by its disk, as in a lower layer of an overlay (a "
            "container's image)",
            advice="choose another folder, or remove that one first",
            setting=setting,
        )
    return RequestError(
        f"{destination} cannot be written ({error.strerror or error})",
        advice="choose another folder",
        setting=setting,
    )
