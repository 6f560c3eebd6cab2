"""Knows how two names change places in one step, where the system can do that."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

_HERE = -100  # AT_FDCWD: names are relative to the current folder
_EXCHANGE = 2  # RENAME_EXCHANGE
# What kernels and disks answer that know no exchange.
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


def exchange(one: Path, other: Path) -> bool:
    """Let two names on one disk change places, so that neither is ever missing; returns False where
    the system cannot, and nothing has happened.

    Linux has had ``renameat2`` since 3.15, and most of its disks know it.

    Raises:
        OSError: one of them is missing, or may not be renamed; nothing has happened.
    """
    call = _renameat2()
    if call is None:
        return False
    if not call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's function; None where it has none."""
    if sys.platform != "linux":
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    call.argtypes = [
        *(ctypes.c_int, ctypes.c_char_p),
        *(ctypes.c_int, ctypes.c_char_p),
        ctypes.c_uint,
    ]
    call.restype = ctypes.c_int
    return call
