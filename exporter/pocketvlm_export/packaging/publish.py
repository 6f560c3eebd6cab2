"""Knows how a folder appears at its destination whole or not at all, and what becomes of what was
there.

| beside the destination | what it is | the next export to it |
|---|---|---|
| ``.NAME.<random>.partial`` | being built, or no longer needed | removes it |
| ``.NAME.<random>.old`` | what was there, while its successor takes its place | puts it back, \
removes it where its successor is in place, else names it |
| ``.NAME.lock`` | locked by the export at work | takes it over |
"""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files import fresh_name, leftovers
from pocketvlm.files.locks import locked
from pocketvlm_export.interrupts import held
from pocketvlm_export.packaging.destination import Content, content_of

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PARTIAL, _OLD = ".partial", ".old"
_ARTIFACT, _SUCCESSOR = "artifact", "successor"  # in a folder that ends in `_OLD`
_log = logging.getLogger(__name__)


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Give a folder beside ``output``, a resolved path, to build in; no other export to the same
    destination is let in meanwhile.

    It is removed on the way out unless `publish` moved it, and so are parents that were made for it
    and stay empty. First the leftovers of exports that were killed are named and dealt with, see
    the module.

    Raises:
        RequestError: another export is at work there, the destination cannot be written, or the
            disk filled up meanwhile.
    """
    made = [folder for folder in output.parents if not folder.exists()]  # the nearest first
    folder = fresh_name(output, _PARTIAL)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with locked(
            output, advice="wait until it has ended, or choose another folder", setting="output"
        ):
            _recover(output)
            try:
                folder.mkdir(mode=0o700)
                yield folder
            finally:
                with held():
                    shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(output, error) from error
    finally:
        for parent in made:
            with suppress(OSError):  # not empty: something was published
                parent.rmdir()


def publish(folder: Path, output: Path, before: Content) -> None:
    """Rename ``folder`` to ``output``, a resolved path, in one step.

    What is replaced is what was there ``before``, and nothing else. It is set aside and checked
    again. It is put back if it has changed, or if ``output`` is missing afterwards for whatever
    reason. An interrupt waits until either of the two is in place.

    Args:
        folder: what `staging` gave.
        output: the destination.
        before: what it held when the export began and may replace, see `replaceable`.

    Raises:
        RequestError: something appeared at ``output``, or changed there, since it was checked; it
            is as it was, and nothing is published.
    """
    _allow_others(folder)
    _bring_to_disk(folder)
    _check_unchanged(output, output, before)
    with held():
        if before:
            _replace(folder, output, before)
        else:
            _place(folder, output)
    _bring_to_disk(output.parent, within=False)


def keep(folder: Path, kept: Path) -> None:
    """Move a folder that fails the gate to where it was asked for, and never into anything that is
    there by now.

    Raises:
        RequestError: something is there, or it cannot be written; nothing of it is left.
    """
    _allow_others(folder)
    try:
        kept.mkdir()
        try:
            _rename(folder, kept)
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
    kept.mkdir(exist_ok=True)  # `_rename` has made room for the folder
    try:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)
        raise


def _place(folder: Path, output: Path) -> None:
    """Put ``folder`` where nothing was, or an empty folder."""
    try:
        _rename(folder, output)
    except OSError as error:
        if os.path.lexists(output):
            raise _changed(output, ()) from error
        raise


def _replace(folder: Path, output: Path, before: Content) -> None:
    """Put ``folder`` in the place of what was there ``before``."""
    aside = fresh_name(output, _OLD)
    aside.mkdir(mode=0o700)
    try:
        info = folder.stat()
        (aside / _SUCCESSOR).write_text(f"{info.st_dev} {info.st_ino}", encoding="utf-8")
        output.rename(aside / _ARTIFACT)
        _check_unchanged(aside / _ARTIFACT, output, before)
        _rename(folder, output)
    finally:
        # Asked of the disk, not of what has run so far.
        if (problem := _settle(aside, output)) is not None:
            raise problem


def _recover(output: Path) -> None:
    """Name and deal with what killed exports left beside ``output``, which is locked."""
    for left in leftovers(output, _PARTIAL):
        shutil.rmtree(left, ignore_errors=True)
        _log.warning("%s was left by an export that was killed, and is removed", left)
    for aside in leftovers(output, _OLD):
        _log.warning("%s was left by an export that was killed", aside)
        if (problem := _settle(aside, output)) is not None:
            _log.warning("%s", problem)


def _settle(aside: Path, output: Path) -> RequestError | None:
    """End the replacement of ``output``, whose old content is in a folder: remove it if its
    successor is in place, or put it back if nothing is. Otherwise leave it, and say where it is."""
    old = aside / _ARTIFACT
    if os.path.lexists(old) and not _is_successor(output, aside / _SUCCESSOR):
        try:
            _rename(old, output)
        except OSError as error:
            return RequestError(
                f"{output} could not be replaced ({error.strerror}), and its old content is in "
                f"{old}",
                advice="move it back, or remove it",
                setting="output",
            )
        _log.warning("%s was not replaced: what was there before is back", output)
    # First a name that says that it is no longer needed: removing it may be cut short.
    unneeded = fresh_name(output, _PARTIAL)
    with suppress(OSError):
        aside.rename(unneeded)
    shutil.rmtree(unneeded, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    return None


def _is_successor(output: Path, note: Path) -> bool:
    """Whether ``output`` is the folder that a note was written of."""
    try:
        info = output.lstat()
        return note.read_text(encoding="utf-8") == f"{info.st_dev} {info.st_ino}"
    except (OSError, ValueError):
        return False


def _rename(source: Path, target: Path) -> None:
    """Rename, and replace nothing but an empty folder. Raises OSError."""
    is_folder = source.is_dir() and not source.is_symlink()
    if is_folder or os.name == "nt":  # Windows renames to no name that is taken
        with suppress(OSError):
            target.rmdir()  # anything but an empty folder stays, and is not replaced by a folder
        source.rename(target)
    else:  # of two files the second would be replaced
        os.link(source, target, follow_symlinks=False)
        source.unlink()


def _check_unchanged(there: Path, output: Path, before: Content) -> None:
    """Refuse to replace what lies ``there``, at ``output`` or set aside from it, unless it is what
    was there ``before``."""
    if before:
        same = content_of(there) == before
    else:  # nothing, or an empty folder
        same = not os.path.lexists(there) or (there.is_dir() and not any(there.iterdir()))
    if not same:
        raise _changed(output, before)


def _changed(output: Path, before: Content) -> RequestError:
    happened = "changed" if before else "appeared"
    return RequestError(
        f"{output} has {happened} while the export ran, and stays as it is; nothing was published",
        advice="look at it, then export again",
        setting="output",
    )


def _allow_others(folder: Path) -> None:
    """Give a folder that was made private the permissions of any that is made here."""
    sample = folder / "permissions"
    sample.mkdir()  # not by os.umask, which other threads' files would meanwhile go by
    mode = sample.stat().st_mode & 0o777
    sample.rmdir()
    folder.chmod(mode)


def _bring_to_disk(folder: Path, *, within: bool = True) -> None:
    """Wait until a folder and its content are on the disk: after a late error or a power cut no
    part of it may be published. Raises OSError."""
    paths = [folder, *(folder.rglob("*") if within else ())]
    for path in paths:
        is_folder = path.is_dir()
        if is_folder and os.name == "nt":  # which has no such call for folders
            continue
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        except OSError:
            if not is_folder:  # some disks know it of files only
                raise
        finally:
            os.close(descriptor)


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
