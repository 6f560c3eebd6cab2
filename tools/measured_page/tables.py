"""Knows how the Markdown that a measurement prints becomes data.

A cell is a number, a text, or an object: a median with the smallest and the largest sample, or a
value with its 95 % interval or with the p of a test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

Cell = float | str | dict[str, float | str]

_NUMBER = r"-?\d+(?:\.\d+)?"
_PLAIN = re.compile(_NUMBER)
_SPREAD = re.compile(rf"({_NUMBER}) \(({_NUMBER})-({_NUMBER})\)")
_INTERVAL = re.compile(rf"({_NUMBER}) \[({_NUMBER}), ({_NUMBER})\]")
_TESTED = re.compile(rf"({_NUMBER}) \((<?{_NUMBER})\)")


@dataclass(frozen=True)
class Table:
    """One table: the heads of its columns, and rows of cells."""

    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Section:
    """What one measurement printed.

    Attributes:
        about: its paragraphs: what was measured, where, how often.
        tables: its tables.
    """

    about: list[str]
    tables: list[Table]

    def to_dict(self) -> dict[str, Any]:
        """The section as JSON has it."""
        tables = [{"columns": table.columns, "rows": table.rows} for table in self.tables]
        return {"about": self.about, "tables": tables}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The section of `to_dict`."""
        tables = [Table(table["columns"], table["rows"]) for table in data["tables"]]
        return cls(data["about"], tables)


def parsed(text: str) -> Section:
    """The section that a measurement printed as Markdown."""
    about, tables = [], []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if all(line.startswith("|") for line in lines) and len(lines) > 1:
            head, _, *rows = (_cells(line) for line in lines)
            tables.append(Table(head, [[_value(cell) for cell in row] for row in rows]))
        else:
            about.append(" ".join(lines))
    return Section(about, tables)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _value(text: str) -> Cell:
    text = text.removeprefix("**").removesuffix("**")
    if _PLAIN.fullmatch(text):
        return float(text) if "." in text else int(text)
    for pattern, names in (
        (_SPREAD, ("median", "smallest", "largest")),
        (_INTERVAL, ("value", "low", "high")),
    ):
        if match := pattern.fullmatch(text):
            return dict(zip(names, map(float, match.groups()), strict=True))
    if match := _TESTED.fullmatch(text):
        return {"value": float(match[1]), "p": match[2] if "<" in match[2] else float(match[2])}
    return text
