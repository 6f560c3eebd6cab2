"""Knows how answers are kept, one per line, so that a run that was killed goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pocketvlm.errors import RequestError
from pocketvlm.files import user_path
from pocketvlm.files.locks import locked
from pocketvlm_measure.evaluation.asking import Reply
from pocketvlm_measure.evaluation.plan import Key, Subject

_FORMAT = "pocketvlm answers 1"
_ELSEWHERE = "name another file with --answers"
_CASE = ("artifact", "line", "budget", "decoder", "decoder_precision", "vision_precision")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "line": int,
    "budget": int,
    "text": str,
    "tokens": int,
    "visual_tokens": int,
    "ttft_ms": (int, float),
}


class Journal:
    """The answers of one run, in a file that only grows.

    The first line states the conditions; answers given under others are refused. A last line that
    was cut off when the run was killed is dropped, and its question asked again. While it is open
    no other process gets the file: each would write over the other's rows.

    Attributes:
        replies: what has been answered, refusals not included.
    """

    def __init__(self, path: Path, head: dict[str, Any], *, resume: bool) -> None:
        """Open ``path`` to continue it where ``resume`` is set and it exists, else a new one.

        Args:
            path: the file.
            head: the conditions, JSON values; all must be the same for answers to count.
            resume: go on with an existing file; without it an existing file is refused.

        Raises:
            RequestError: the file exists and is not to be resumed, is of another run, damaged, not
                writable, or another process writes it.
        """
        self.path = path = user_path(path)
        self.replies: dict[Key, Reply] = {}
        with ExitStack() as held:
            held.enter_context(
                locked(path, advice=f"wait for it, or {_ELSEWHERE}", setting="answers")
            )
            self._open({"format": _FORMAT, **head}, resume=resume)
            held.callback(self._file.close)
            self._held = held.pop_all()

    def _open(self, head: dict[str, Any], *, resume: bool) -> None:
        if self.path.exists() and not resume:
            raise RequestError(
                f"{self.path} exists already",
                advice=f"go on with it by --resume, or {_ELSEWHERE}",
                setting="answers",
            )
        try:
            whole = self._read(head) if self.path.exists() else 0
            self._file = self.path.open("r+b" if whole else "wb")
            self._file.truncate(whole)
            self._file.seek(whole)
            if not whole:
                self._write([head])
        except OSError as error:
            raise RequestError(
                f"{self.path} cannot be written ({error.strerror})",
                advice=_ELSEWHERE,
                setting="answers",
            ) from error

    def add(self, subject: Subject, replies: list[Reply]) -> None:
        """Write replies down, all at once. Refusals are written for people to read; a resumed run
        asks them again."""
        rows = []
        by_budget = {case.budget: case for case in subject.cases}
        for reply in replies:
            key = subject.key(reply.line, by_budget[reply.budget])
            fields = dataclasses.asdict(reply)
            rows.append(
                dict(zip(_CASE, key, strict=True))
                | {k: v for k, v in fields.items() if v is not None}
            )
            if reply.error is None:
                self.replies[key] = reply
        try:
            self._write(rows)
        except OSError as error:
            raise RequestError(
                f"{self.path} cannot be written ({error.strerror})",
                advice="make room, then go on with --resume",
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

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._file.write(
            "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        )
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, head: dict[str, Any]) -> int:
        """Take the answers of the file; returns how many bytes of it are whole lines."""
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
                    self._check(row, head)
                elif row.get("error") is None:
                    self._take(row, number)
                whole += len(line)
        return whole

    def _check(self, first: dict[str, Any], head: dict[str, Any]) -> None:
        """Refuse a file whose first line states other conditions."""
        if first.get("format") != _FORMAT:
            raise RequestError(
                f"{self.path} is no file of answers",
                advice=_ELSEWHERE,
                setting="answers",
            )
        for name, value in head.items():
            if first.get(name) != value:
                raise RequestError(
                    f"{self.path} was answered with {name} {first.get(name)}",
                    expected=f"{value}, as of this run",
                    advice=_ELSEWHERE,
                    setting="answers",
                )

    def _take(self, row: dict[str, Any], number: int) -> None:
        if not all(isinstance(row.get(name), kind) for name, kind in _TYPES.items()) or not all(
            isinstance(row.get(name), str) for name in ("artifact", *_CASE[3:])
        ):
            raise RequestError(
                f"{self.path} line {number} is no answer",
                advice="delete that line, or the file",
            )
        key: Key = tuple(row[name] for name in _CASE)
        media = row.get("media")
        by = row.get("answered_by")
        reply = Reply(
            **{name: row[name] for name in _TYPES},
            media=media and str(media),
            answered_by=by and str(by),
        )
        self.replies.setdefault(key, reply)


def _row(line: bytes) -> dict[str, Any] | None:
    """The object in a whole line, else None."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
