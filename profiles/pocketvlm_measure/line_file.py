"""Knows a file of JSON lines that only grows, so that work that was killed continues where it
was."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from pocketvlm.errors import RequestError
from pocketvlm.files import user_path
from pocketvlm.files.locks import locked
from pocketvlm_targets.text import parse_json


class LineFile(ABC):
    """Rows of one run.

    The first line states the conditions; rows made under others are refused. A last line that was
    cut off when the run was killed is dropped, and an append that fails is taken back. While it is
    open no other process gets the file: each would write over the other's rows.

    Attributes:
        format: what the first line calls the file.
        contents: what it has, in the plural, for people.
        made: how these came about, a participle.
        path: the file.
        head: the conditions.
    """

    format: ClassVar[str]
    contents: ClassVar[str]
    made: ClassVar[str]
    elsewhere: ClassVar[str] = "name another file with --answers"
    setting: ClassVar[str] = "answers"

    def __init__(self, path: Path, head: Mapping[str, Any], *, resume: bool) -> None:
        """Open ``path`` to continue it where ``resume`` is set and it exists, else a new one.

        Args:
            path: the file.
            head: the conditions, JSON values; all must be the same for rows to count.
            resume: continue with an existing file; without it an existing file is refused.

        Raises:
            RequestError: the file exists and is not to be resumed, is of another run, damaged, not
                writable, or another process writes it.
        """
        self.path = path = user_path(path)
        self.head = {"format": self.format, **head}
        with ExitStack() as held:
            held.enter_context(
                locked(path, advice=f"wait for it, or {self.elsewhere}", setting=self.setting)
            )
            self._open(resume=resume)
            held.callback(self._file.close)
            self._held = held.pop_all()

    @abstractmethod
    def take(self, row: dict[str, Any]) -> bool:
        """Keep a row that the file has; returns whether it is one of the file's kind."""

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write rows down, all at once; they are on the disk when this returns."""
        try:
            self._write(rows)
        except OSError as error:
            raise RequestError(
                f"{self.path} cannot be written ({error.strerror})",
                advice="make room, then continue with --resume",
            ) from error

    def close(self) -> None:
        """Close the file and let others have it."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self, *, resume: bool) -> None:
        if self.path.exists() and not resume:
            raise RequestError(
                f"{self.path} exists already",
                advice=f"continue with it by --resume, or {self.elsewhere}",
                setting=self.setting,
            )
        is_new = not os.path.lexists(self.path)
        try:
            self._whole = self._read() if self.path.exists() else 0
            # Unbuffered: what a full disk did not take must not be tried again when it closes.
            self._file = self.path.open("r+b" if self._whole else "wb", buffering=0)
            try:
                self._file.truncate(self._whole)
                if not self._whole:
                    self._write([self.head])
            except BaseException:
                self._file.close()
                if is_new:
                    with suppress(OSError):
                        self.path.unlink()
                raise
        except OSError as error:
            raise RequestError(
                f"{self.path} cannot be written ({error.strerror})",
                advice=self.elsewhere,
                setting=self.setting,
            ) from error

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows, or leave the file as it was. Raises OSError."""
        data = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        # Again each time: an earlier append that failed may not have been taken back either.
        self._file.truncate(self._whole)
        self._file.seek(self._whole)
        try:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
            os.fsync(self._file.fileno())
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._whole)
            raise
        self._whole += len(data)

    def _read(self) -> int:
        """Take the rows of the file; returns how many bytes of it are whole lines."""
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                row = _row(line)
                if row is None and not file.peek(1):
                    break  # cut off
                if row is None:
                    raise RequestError(
                        f"{self.path} line {number} is damaged",
                        advice="delete that line, or the file",
                    )
                if number == 1:
                    self._check(row)
                elif not self.take(row):
                    one = self.contents.removesuffix("s")
                    raise RequestError(
                        f"{self.path} line {number} is not a valid {one}",
                        advice="delete that line, or the file",
                    )
                whole += len(line)
        return whole

    def _check(self, first: dict[str, Any]) -> None:
        """Refuse a file whose first line states other conditions."""
        if first.get("format") != self.format:
            raise RequestError(
                f"{self.path} is not a file of {self.contents}",
                advice=self.elsewhere,
                setting=self.setting,
            )
        for name in {**self.head, **first}:  # one that only the file states is another, too
            if first.get(name) != self.head.get(name):
                raise RequestError(
                    f"{self.path} was {self.made} with {name} {first.get(name)}",
                    expected=f"{self.head.get(name)}, as of this run",
                    advice=self.elsewhere,
                    setting=self.setting,
                )


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of such a file, without taking it, until one is damaged or cut off; none where
    it cannot be read."""
    try:
        with path.open("rb") as file:
            for line in file:
                if (row := _row(line)) is None:
                    return
                yield row
    except OSError:
        return


def _row(line: bytes) -> dict[str, Any] | None:
    """The object in a whole line, else None."""
    try:
        row = parse_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
