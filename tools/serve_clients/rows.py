"""Knows how a client's checks are counted and handed on: standard library only, as each client runs
in an environment of its own."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_LONGEST_NOTE = 300


@dataclass(frozen=True)
class Row:
    """How many answers of a client are as expected.

    Attributes:
        client: what asked.
        check: what was looked at.
        same: answers that are as expected.
        asked: answers there should be.
        note: what differs, or what was counted.
    """

    client: str
    check: str
    same: int
    asked: int
    note: str = ""

    def __str__(self) -> str:
        """A line of the report."""
        note = f"  ({self.note})" if self.note else ""
        return f"{self.same:4} of {self.asked:4}  {self.client}: {self.check}{note}"


class Checks:
    """The checks of one client, each printed as a line of JSON as soon as it is done.

    Args:
        client: its name and version.
    """

    def __init__(self, client: str) -> None:
        self._client = client

    def check(self, name: str, checks: Iterable[Callable[[], None]]) -> None:
        """Count those that raise nothing; the first that does is the note."""
        same, notes = 0, []
        every = list(checks)
        for each in every:
            try:
                each()
                same += 1
            except Exception as error:  # noqa: BLE001 - whatever a client raises is a row
                traceback.print_exc(file=sys.stderr)
                notes.append(f"{type(error).__name__}: {error}".replace("\n", " "))
        note = notes[0][:_LONGEST_NOTE] if notes else ""
        print(json.dumps(asdict(Row(self._client, name, same, len(every), note))), flush=True)


def read_given() -> dict[str, Any]:
    """What the program was given: a JSON file with addresses, cases and pictures."""
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return given


def equal(actual: object, expected: object) -> None:
    """Raise where they differ."""
    if actual != expected:
        raise AssertionError(f"{actual!r} for {expected!r}")


def refused(ask: Callable[[], object], kind: type[Exception]) -> Any:
    """The error of the client's own kind that asking raises."""
    try:
        ask()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")
