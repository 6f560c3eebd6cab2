"""Knows how an open file is locked by the operating system, so that the lock ends with the
process however that ends."""

from __future__ import annotations

import errno
import sys

if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> None:
        """Lock an open file, or raise BlockingIOError or PermissionError at once where another has
        it; another OSError where the disk knows no locks, see `NO_LOCKS`."""
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def try_lock(descriptor: int) -> None:
        """Lock an open file, or raise BlockingIOError or PermissionError at once where another has
        it; another OSError where the disk knows no locks, see `NO_LOCKS`.

        Open it for writing: NFS locks nothing that is open for reading alone (EBADF).
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# What disks answer that know no locks, some of a network among them.
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
