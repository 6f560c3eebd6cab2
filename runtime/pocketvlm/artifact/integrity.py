"""Knows how a folder is compared with its files table: names, links, sizes, and checksums
remembered between loads."""

from __future__ import annotations

import hashlib
import mmap
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from pocketvlm.artifact.specs import FileEntry
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.files.remembered import change_remembered, read_remembered

Check = Literal["auto", "full", "sizes"]

# One plain name after another: nothing hidden, no "..", no drive, no backslash, nothing that a
# shell or Windows minds.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.\-]*")
_TABLE = "verified.json"
_REMEMBERED = 4096  # entries kept in it, newest last
_CHUNK = 1 << 20
# Nanoseconds: the clock that stamps files advances in steps of up to 10 ms. Within one step a file
# can change and look as before.
_STEP = 20_000_000


def check_files(root: Path, files: Mapping[str, FileEntry], check: Check = "auto") -> None:
    """Hold every file of the table against the folder ``root``.

    Names, links and sizes are checked always. Checksums: ``"full"`` reads every file. ``"auto"``
    reads those not remembered from an earlier load with the same device, inode, size, time of
    modification and time of change. ``"sizes"`` reads none, so a changed file of the same size goes
    unnoticed. The time of change cannot be put back. Windows has only the time of creation: there a
    file that was changed in place, with its time put back, needs ``"full"``.

    Raises:
        PocketVLMError: naming the first file that is missing, leaves the folder, or differs from
            the table.
    """
    if check not in get_args(Check):
        raise RequestError(
            f"check {check!r}", expected=f"one of {', '.join(get_args(Check))}", setting="check"
        )
    resolved = {name: resolve(root, name) for name in files}
    for name, path in resolved.items():
        with _reading(root / name):
            size = path.stat().st_size
        if size != files[name].bytes:
            raise ArtifactError(
                f"{root / name} has {size} bytes, the manifest says {files[name].bytes}",
                advice="copy or export it again",
            )
    if check != "sizes":
        _check_hashes(root, files, resolved, use_memory=check == "auto")


def resolve(root: Path, name: str) -> Path:
    """The regular file of this name inside ``root``; refuses names and links that leave the
    folder."""
    parts = name.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise ArtifactError(
            f"{root} lists the file name {name!r}",
            expected="plain relative names",
            advice="export it again",
        )
    path = root.joinpath(*parts)
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise ArtifactError(
            f"{path} is listed in the manifest but cannot be read", advice="copy or export it again"
        ) from error
    if not target.is_relative_to(root.resolve()):
        raise ArtifactError(
            f"{path} is a link that leaves the folder",
            advice="copy the real files (cp -rL), or download them with local_dir= of "
            "huggingface_hub.snapshot_download",
        )
    if not stat.S_ISREG(mode):
        raise ArtifactError(f"{path} is not a regular file", advice="copy or export it again")
    return target


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, lower-case hex, read a megabyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def checksums(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 (hex) of the content of files, by path; read where it is not remembered from an
    earlier load, see `check_files`. Raises OSError."""
    remembered = _Remembered()
    digests = {path: remembered.sha256(path) for path in paths}
    remembered.write_down()
    return digests


def files_named(root: Path, name: str, files: Iterable[str]) -> list[str]:
    """Those of ``files`` that a graph names, sorted: its weights lie in some of them.

    Args:
        root: the artifact's folder.
        name: the graph.
        files: names of files of the artifact; the graph refers to them by their last part.

    Raises:
        OSError: the graph cannot be read.
        PocketVLMError: see `resolve`.
    """
    path = resolve(root, name)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        return [
            other
            for other in sorted(set(files) - {name})
            if graph.find(other.rpartition("/")[2].encode()) >= 0
        ]


def graph_digest(root: Path, name: str, files: Iterable[str]) -> str:
    """SHA-256 (hex) over the content of a graph and of the ``files`` that it names: what it
    computes, whatever an artifact states of itself.

    Args:
        root: the artifact's folder.
        name: the graph.
        files: names of all files that weights may lie in; the graph refers to its own by name.

    Raises:
        OSError: one cannot be read.
        PocketVLMError: see `resolve`.
    """
    path = resolve(root, name)
    named = {other: resolve(root, other) for other in files_named(root, name, files)}
    digests = checksums([path, *named.values()])
    rows = [digests[path], *(f"{other} {digests[file]}" for other, file in named.items())]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _check_hashes(
    root: Path, files: Mapping[str, FileEntry], resolved: Mapping[str, Path], *, use_memory: bool
) -> None:
    remembered = _Remembered()
    for name, path in resolved.items():
        with _reading(root / name):
            digest = remembered.sha256(path, reuse=use_memory)
        if digest != files[name].sha256:
            raise ArtifactError(
                f"{root / name} was altered (its SHA-256 differs)", advice="copy or export it again"
            )
    remembered.write_down()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Refuse a file that cannot be read: one without the permission, one that another process has
    removed since it was looked up, a damaged disk."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror or error})", advice="copy or export it again"
        ) from error


class _Remembered:
    """Checksums of files by path, each with what the system says of a file that has not changed
    since."""

    def __init__(self) -> None:
        self._rows = read_remembered(_TABLE)
        self._fresh: dict[str, list[int | str]] = {}

    def sha256(self, path: Path, *, reuse: bool = True) -> str:
        """SHA-256 (hex) of a file, read again where it may have changed or ``reuse`` is not set."""
        state = _state(path)
        row = self._rows.get(str(path))
        if reuse and isinstance(row, list) and row[:-1] == state and isinstance(row[-1], str):
            return row[-1]
        digest = sha256_of(path)
        if _state(path) == state:  # not while it was read
            self._fresh[str(path)] = [*state, digest]
        return digest

    def write_down(self) -> None:
        """Write down what was read."""
        if self._fresh:
            change_remembered(_TABLE, _REMEMBERED, lambda rows: {**rows, **self._fresh})


def _state(path: Path) -> list[int | str]:
    """Device, inode, size, time of modification and of change: another one after any change."""
    info = path.stat()
    times = info.st_mtime_ns, info.st_ctime_ns
    now = time.time_ns()
    if any(0 <= now - stamp < _STEP for stamp in times):
        time.sleep(_STEP / 1e9)
        info = path.stat()
    return [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
