"""Knows how a folder is held against its files table: names, links, sizes, and checksums remembered
between loads."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import platformdirs

from pocketvlm.artifact.manifest import FileEntry
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.files import replace_file

Check = Literal["auto", "full", "sizes"]

_log = logging.getLogger(__name__)
# One plain name after another: nothing hidden, no "..", no drive, no backslash, nothing that a
# shell or Windows minds.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.\-]*")
_REMEMBERED = 4096  # entries kept in the cache file, newest last
_CHUNK = 1 << 20


def check_files(root: Path, files: Mapping[str, FileEntry], check: Check = "auto") -> None:
    """Hold every file of the table against the folder ``root``.

    Names, links and sizes are checked always. Checksums: ``"full"`` reads every file, ``"auto"``
    reads those not remembered from an earlier load with the same size, modification time and inode,
    ``"sizes"`` reads none and so cannot tell a file from another of the same size.

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


def cache_file() -> Path:
    """Where checksums are remembered: in the user's cache folder, never inside an artifact."""
    return platformdirs.user_cache_path("pocketvlm", appauthor=False) / "verified.json"


def _check_hashes(
    root: Path, files: Mapping[str, FileEntry], resolved: Mapping[str, Path], *, use_memory: bool
) -> None:
    memory = _read_memory()
    fresh: dict[str, list[int | str]] = {}
    for name, path in resolved.items():
        expected = files[name].sha256
        info = (
            path.stat()
        )  # before reading: a file that changes meanwhile is then read again next time
        row: list[int | str] = [info.st_size, info.st_mtime_ns, info.st_ino, expected]
        if use_memory and memory.get(str(path)) == row:
            continue
        if sha256_of(path) != expected:
            raise ArtifactError(
                f"{root / name} was altered (its SHA-256 differs)", advice="copy or export it again"
            )
        fresh[str(path)] = row
    if fresh:
        _write_memory({**memory, **fresh})


def _read_memory() -> dict[str, list[int | str]]:
    """The rows that earlier loads verified, by path; an unreadable or damaged cache has none, and
    files are read again."""
    try:
        data = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:
        _log.debug("no remembered checksums: %s", error)
        return {}
    return data if isinstance(data, dict) else {}


def _write_memory(memory: dict[str, list[int | str]]) -> None:
    """Replace the cache in one step; a read-only home is no reason to refuse an artifact."""
    try:
        target = cache_file()
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, json.dumps(dict(list(memory.items())[-_REMEMBERED:])).encode())
    except (OSError, RuntimeError) as error:
        _log.debug("checksums are not remembered: %s", error)
