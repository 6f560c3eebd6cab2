"""Knows how the operations of a process on files are counted and made to fail: a library, compiled
here, that the process is started with."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
# What an operation does, as `shim.c` numbers it, and whether every later one does too.
FAULTS = {
    "eio": (1, False),
    "enospc": (2, False),
    "short": (3, False),  # writes take half of what they are given
    "kill": (4, False),
    "term": (5, False),
    "int": (6, False),
    "torn": (7, False),  # a write takes half, then the process is killed
    "full": (8, True),  # nothing grows any longer, what is there can be removed
    "dead": (1, True),  # every operation fails
}
_ENVIRONMENT = "LD_PRELOAD"


def missing() -> str:
    """Why there is no shim here; empty where there can be one."""
    if sys.platform != "linux":
        return "needs Linux"
    return "" if shutil.which("cc") else "needs a C compiler"


def compiled(folder: Path) -> Path:
    """The library, made in ``folder`` where it is older than its source."""
    library = folder / "shim.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(words, check=True, capture_output=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """The environment that a process has to be started in."""
    return {**os.environ, _ENVIRONMENT: str(library)}


class Shim:
    """The library in this process, which was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_operation.restype = ctypes.c_char_p

    def arm(self, folder: Path, number: int, fault: str | None) -> None:
        """Count from here what changes under ``folder``; operation ``number`` meets ``fault``."""
        what, every_later_one = FAULTS[fault] if fault else (0, False)
        self._library.faults_arm(
            os.fsencode(f"{folder}/"), ctypes.c_long(number), what, every_later_one
        )

    def disarm(self) -> None:
        """Let all operations through."""
        self._library.faults_disarm()

    @property
    def counted(self) -> int:
        """Operations since it was armed."""
        return int(self._library.faults_counted())

    @property
    def operation(self) -> str:
        """What the fault met."""
        return os.fsdecode(self._library.faults_operation())
