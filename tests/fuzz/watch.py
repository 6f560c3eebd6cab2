"""Knows what a process reads and writes while an input is used: by Python's own events, and for
native code by the system's notices of what happens beside the input."""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink",
"os.truncate",
            "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move")  # fmt: skip
_OF_TWO = ("os.rename", "os.link", "shutil.move")
_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
              "pty.spawn")  # fmt: skip
_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request")
# What a process reads of its own accord: itself, its packages, its system.
_OWN = ("/proc", "/sys", "/dev/null", "/dev/urandom", "/usr/lib", "/usr/local/lib", "/usr/share",
"/lib",
        "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/apache2")  # fmt: skip
_ALL_EVENTS = 0x00000FFF
_NOTICE = struct.Struct("iIII")


class Watch:
    """Notes each read and write outside of what is allowed, while it is on."""

    def __init__(self, root: Path, box: Path, own: Path) -> None:
        """``own`` is a folder for what the product keeps: caches, temporary files."""
        packages = (each for each in sys.path if each.startswith("/"))
        self._reads = (str(box), str(own), sys.base_prefix, str(_source()), *packages, *_OWN)
        self._writes = (str(own),)
        self._passed = {os.fsencode(box.name), os.fsencode(own.name)}
        self._notes: list[str] = []
        self._on = False
        self._notices = _notices_of(root)
        sys.addaudithook(self._event)

    @contextmanager
    def __call__(self) -> Iterator[list[str]]:
        """A list of what was noted, complete once this ends."""
        self._drain()
        self._notes = []
        self._on = True
        try:
            yield self._notes
        finally:
            self._on = False
            self._notes += [f"touches {name!r} beside its folder" for name in self._drain()]

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, mode, flags = arguments
            if mode is None and isinstance(path, str) and not path.startswith("/"):
                return  # as shutil does within an open folder, which the event leaves out
            writing = bool(flags & _WRITING) if isinstance(flags, int) else False
            writing = writing or (isinstance(mode, str) and any(each in mode for each in "wax+"))
            self._look(
                "writes" if writing else "reads", path, self._writes if writing else self._reads
            )
        elif event in _CHANGES:
            if event.startswith("os.") and any(
                isinstance(each, int) and each >= 0 for each in arguments[-2:]
            ):
                return  # likewise
            if event == "os.link":  # a file that two names lead to is read, if anything
                self._look("links", arguments[0], self._reads)
            for path in arguments[event == "os.link" : 2 if event in _OF_TWO else 1]:
                self._look(event, path, self._writes)
        elif event in ("os.listdir", "os.scandir"):
            self._look("lists", arguments[0], self._reads)
        elif event in _PROCESSES:
            self._notes.append(f"starts a process ({event})")
        elif event in _NETWORK:
            self._notes.append(f"asks the network ({event} {str(arguments[1:])[:80]})")
        elif event == "pickle.find_class":
            self._notes.append(f"unpickles {arguments[0]}.{arguments[1]}")

    def _look(self, what: str, path: Any, allowed: tuple[str, ...]) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not any(real == each or real.startswith(each.rstrip("/") + "/") for each in allowed):
            self._notes.append(f"{what} {real}")

    def _drain(self) -> list[str]:
        """Names beside the box at which something has happened since."""
        names = []
        while True:
            try:
                content = os.read(self._notices, 1 << 16)
            except BlockingIOError:
                return sorted(set(names))
            place = 0
            while place < len(content):
                _, _, _, length = _NOTICE.unpack_from(content, place)
                place += _NOTICE.size
                name = content[place : place + length].rstrip(b"\0")
                place += length
                if name and name not in self._passed:
                    names.append(os.fsdecode(name))


def contents(box: Path) -> dict[str, tuple[int, int, int]]:
    """What lies in a folder: size, time and number of each file, none of which may change."""
    listed = {}
    for folder, _, names in os.walk(box):
        for name in names:
            info = os.lstat(f"{folder}/{name}")
            listed[f"{folder}/{name}"] = (info.st_size, info.st_mtime_ns, info.st_ino)
    return listed


def _notices_of(folder: Path) -> int:
    """A descriptor that tells of whatever opens, reads or changes something in a folder."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if (
        descriptor < 0
        or library.inotify_add_watch(descriptor, os.fsencode(folder), _ALL_EVENTS) < 0
    ):
        raise OSError(ctypes.get_errno(), "inotify")
    return descriptor


def _source() -> Path:
    return Path(__file__).resolve().parents[2]
