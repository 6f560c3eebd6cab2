"""Knows how commands that measure write their results to files: in one step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files import replace_file


def check_folders(paths: Iterable[Path]) -> None:
    """Raise `PocketVLMError` for a file in a folder that does not exist; to be called before any
    work."""
    for path in paths:
        if not path.parent.is_dir():
            raise RequestError(
                f"no such folder: {path.parent}", advice=f"make it, or write {path.name} elsewhere"
            )


def write_text(path: Path, text: str) -> None:
    """Write a file in one step; raises `PocketVLMError`."""
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise RequestError(
            f"{path} cannot be written ({error.strerror})", advice="give another file"
        ) from error
