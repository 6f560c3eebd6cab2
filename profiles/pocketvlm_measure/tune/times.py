"""Knows how the times of turns are kept, one per line, so that a tuning that was killed
continues."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pocketvlm_measure.line_file import LineFile
from pocketvlm_measure.tune.source import Taken

Key = tuple[str, str]  # what tells an artifact from others, and a case of it

_REFUSED: dict[str, type | tuple[type, ...]] = {"artifact": str, "case": str, "refused": str}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "artifact": str,
    "case": str,
    "ttft_ms": (int, float),
    "peak_bytes": (int, type(None)),
}


class TimesFile(LineFile):
    """The turns of one tuning. A turn that was cut off by a kill is taken again: what was measured
    before it and after it would not have been measured under the same conditions.

    Attributes:
        turns: by number, what each candidate took, or why it cannot run.
    """

    format: ClassVar[str] = "pocketvlm times 1"
    contents: ClassVar[str] = "times"
    made: ClassVar[str] = "measured"

    def __init__(self, path: Path, head: Mapping[str, Any], *, resume: bool) -> None:
        """See `LineFile`."""
        self.turns: dict[int, dict[Key, Taken | str]] = {}
        super().__init__(path, head, resume=resume)

    def add(self, number: int, taken: Mapping[Key, Taken | str]) -> None:
        """Write a turn down; it takes the place of one with the same number."""
        rows = [
            {"artifact": artifact, "case": case}
            | ({"refused": one} if isinstance(one, str) else dataclasses.asdict(one))
            for (artifact, case), one in taken.items()
        ]
        self.write([{"turn": number, "taken": rows}])
        self.turns[number] = dict(taken)

    def take(self, row: dict[str, Any]) -> bool:
        """See `LineFile`."""
        number, taken = row.get("turn"), row.get("taken")
        if not isinstance(number, int) or not isinstance(taken, list):
            return False
        turn: dict[Key, Taken | str] = {}
        for one in taken:
            kinds = _REFUSED if isinstance(one, dict) and "refused" in one else _KINDS
            if not isinstance(one, dict) or not all(
                isinstance(one.get(name), kind) for name, kind in kinds.items()
            ):
                return False
            turn[one["artifact"], one["case"]] = (
                one["refused"]
                if kinds is _REFUSED
                else Taken(float(one["ttft_ms"]), one["peak_bytes"])
            )
        self.turns[number] = turn
        return True
