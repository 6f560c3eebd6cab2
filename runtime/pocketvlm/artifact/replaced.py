"""Knows whether a folder was replaced by another while it was read, so that nobody gets some of the
old and some of the new."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from pocketvlm.artifact.manifest import MANIFEST_NAME
from pocketvlm.errors import ArtifactError, PocketVLMError
from pocketvlm.files import leftovers, real_path, user_path

T = TypeVar("T")
Load = TypeVar("Load", bound=Callable[..., Any])
Identity = tuple[int, ...]  # device and inode of a folder; inode and time of its manifest

_ATTEMPTS = 50
_PAUSE = 0.02  # seconds
_ASIDE = ".old"  # what `pocketvlm.files.folders` sets aside, where two names cannot change places


def identity_of(folder: Path) -> Identity | None:
    """What tells a folder from another that takes its name; None where there is none.

    A folder that is removed may leave its inode to the next one, so its manifest counts too.
    """
    try:
        info = folder.stat()
    except OSError:
        return None
    try:
        manifest = (folder / MANIFEST_NAME).stat()
    except OSError:
        return info.st_dev, info.st_ino
    return info.st_dev, info.st_ino, manifest.st_ino, manifest.st_mtime_ns


def read_whole(folder: Path, read: Callable[[], T]) -> T:
    """Return what ``read`` makes of a folder, all of it of one and the same folder.

    It is read again where another has taken the folder's name meanwhile, whether that went well or
    not, and where the name is free for the moment in which one is replaced.

    Raises:
        PocketVLMError: what ``read`` raises of a folder that nobody replaced; or that it is
            replaced over and over.
    """
    for _ in range(_ATTEMPTS):
        before = _held(folder)
        try:
            result = read()
        except PocketVLMError:
            if before.is_still() and not _is_being_replaced(folder):
                raise
        else:
            if before.is_still():
                return result
        finally:
            before.close()
        time.sleep(_PAUSE)
    raise ArtifactError(
        f"{folder} is being replaced all the time, or was when its writer was killed",
        advice="wait until it is written, or export it again",
    )


def of_one_folder(load: Load) -> Load:
    """Have a class method that loads a folder, its first argument, do so as `read_whole` does."""

    @functools.wraps(load)
    def loads(cls: type, path: str | os.PathLike[str], **options: Any) -> Any:
        return read_whole(user_path(path), lambda: load(cls, path, **options))

    return cast(Load, loads)


class _Held:
    """A folder that is kept open, so that no other gets its number when it is removed."""

    def __init__(self, folder: Path, descriptor: int | None) -> None:
        self._folder, self._descriptor = folder, descriptor
        self._identity = identity_of(folder)

    def is_still(self) -> bool:
        """Whether the name is still that folder's, or still nobody's."""
        return identity_of(self._folder) == self._identity

    def close(self) -> None:
        """Let it go."""
        if self._descriptor is not None:
            os.close(self._descriptor)


def _held(folder: Path) -> _Held:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, AttributeError):  # no folder; a system without O_DIRECTORY
        descriptor = None
    return _Held(folder, descriptor)


def _is_being_replaced(folder: Path) -> bool:
    """Whether nothing is there while its predecessor lies aside: for a moment, or since a kill."""
    target = real_path(folder)
    try:
        return not os.path.lexists(target) and bool(leftovers(target, _ASIDE))
    except OSError:
        return False
