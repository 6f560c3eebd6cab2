"""Knows how a file that somebody named is opened for reading: a regular file, and never one that
could make the reader wait."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from pocketvlm.errors import PictureError
from pocketvlm.files import user_path


def open_regular(name: str, what: str) -> tuple[BinaryIO, int]:
    """Open a file for reading, and return it with its size in bytes.

    A pipe, a device or a socket is refused without being opened: reading one may wait for ever, and
    opening one may have effects.

    Args:
        name: its path.
        what: what it should hold, for messages: "picture", "video".

    Raises:
        PictureError: there is none, it cannot be read, or it is not a regular file.
    """
    # Without waiting, in case a pipe takes its place after the first look.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        path = user_path(name)
        _check_regular(path.stat(), name, what)
        stream = os.fdopen(os.open(path, flags), "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise PictureError(
            f"{what} {name} cannot be read ({reason})", advice=f"give the path of a {what} file"
        ) from error
    try:
        info = os.fstat(stream.fileno())
        _check_regular(info, name, what)
    except PictureError:
        stream.close()
        raise
    return stream, info.st_size


def _check_regular(info: os.stat_result, name: str, what: str) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise PictureError(
            f"{name} is a directory, not a file", advice=f"give the path of a {what} file"
        )
    if not stat.S_ISREG(info.st_mode):
        raise PictureError(
            f"{name} is a pipe, socket or device, not a file", advice="write it into a file first"
        )
