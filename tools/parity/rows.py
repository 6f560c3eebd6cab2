"""Knows how comparisons are kept, one per line, so that a run that was killed continues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pocketvlm_measure.line_file import LineFile

Key = tuple[str, str, str, int]  # checkpoint, method, setting, number of the question
_KEY = ("checkpoint", "method", "setting", "number")


class Rows(LineFile):
    """The comparisons of one run, see `LineFile`.

    Attributes:
        by_key: what has been compared, as `parity.compare.compare` gives it.
    """

    format: ClassVar[str] = "pocketvlm parity 1"
    contents: ClassVar[str] = "comparisons"
    made: ClassVar[str] = "compared"
    elsewhere: ClassVar[str] = "name another folder with --build"
    setting: ClassVar[str] = "build"

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        """See `LineFile`; an existing file is continued."""
        self.by_key: dict[Key, dict[str, Any]] = {}
        super().__init__(path, head, resume=True)

    def add(self, key: Key, row: dict[str, Any]) -> None:
        """Write a comparison down."""
        self.by_key[key] = row
        self.write([dict(zip(_KEY, key, strict=True)) | row])

    def take(self, row: dict[str, Any]) -> bool:
        """See `LineFile`."""
        if not all(name in row for name in (*_KEY, "at", "tie", "logits", "kept_equal")):
            return False
        checkpoint, method, setting, number = (row.pop(name) for name in _KEY)
        self.by_key[checkpoint, method, setting, number] = row
        return True
