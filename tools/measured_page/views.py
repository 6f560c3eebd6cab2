"""Knows what the page shows of each measurement: some of its columns, some of its rows, and no
spreads, which are in the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from measured_page.tables import Cell, Section, Table

_SURE = 0.05

Row = Mapping[str, Cell]


def _every(row: Row) -> bool:
    return True


@dataclass(frozen=True)
class View:
    """How one measurement is shown.

    Attributes:
        columns: heads of the page by those of the data, in the order of the page; empty for all.
        rows: which rows are shown.
        table: the one that is shown, of several; None where only the text is.
        about: the paragraphs that are shown; the first ones by their number.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    rows: Callable[[Row], bool] = _every
    table: int | None = 0
    about: tuple[int, ...] = ()


_PEERS = View(
    {
        "": "",
        "prompt tokens": "prompt tokens",
        "first token, ms: median (smallest-largest)": "TTFT, ms",
        "ms a further token": "decode, ms per token",
        "peak memory, MB": "peak memory, MB",
        "of the last row": "TTFT by the last row's",
    }
)
_PICTURES = View(
    {
        "pixels at most": "pixels at most",
        "tokens": "tokens",
        "kept": "kept",
        "vision, ms": "vision, ms",
        "prefill, ms": "prefill, ms",
        "time to first token, ms": "TTFT, ms",
        "of the first": "of the first",
        "by FLOPs": "by FLOPs",
    }
)
_KINDS = ("colour", "shape", "place", "count", "presence", "reading", "description")
_FASTER = {
    "ttft": "TTFT, ms",
    "sooner": "TTFT, times faster",
    "prefill": "prefill, times faster",
    "decode tokens/s": "decode tokens/s",
    "peak memory": "peak memory",
}

VIEWS: Mapping[str, View] = {
    "methods": View(),
    "kinds": View({name: name for name in ("method", *_KINDS)}, rows=lambda row: row["kept"] == 14),
    "engines": View(
        {
            "decoder": "decoder",
            "its precision": "precision",
            "size of both, MB": "size of both, MB",
            "exact match, %": "exact match, %",
        },
        rows=lambda row: row["vision"] in ("", "int8"),
    ),
    "budgets": View(
        {
            "visual tokens": "visual tokens",
            "vision": "vision, ms",
            "prefill": "prefill, ms",
            "ttft": "TTFT, ms",
            "first token sooner": "TTFT, times faster",
        }
    ),
    "vision": View(
        {
            "vision graph": "vision graph",
            "milliseconds, median (smallest-largest)": "ms",
            "of the unpruned": "of the unpruned",
        }
    ),
    "export-memory": View(
        rows=lambda row: row["step"] in ("start", "decoder graph", "parity gate")
    ),
    "startup": View(
        {
            "": "",
            "milliseconds, median (smallest-largest)": "ms",
            "faster": "times faster",
            "peak memory": "peak memory",
        }
    ),
    "run-memory": View(),
    "run-memory-real": View(),
    "selection": View(
        {
            "method": "method",
            "selection, ms": "selection, ms",
            "of the vision graph": "of the vision graph",
        }
    ),
    "picking": View(
        {
            "patches": "patches",
            "picks": "picks",
            "unrolled, ms: median (smallest-largest)": "unrolled, ms",
            "Loop, of that": "Loop, of that",
        }
    ),
    "next": View({"per tile": "per tile", "tokens": "tokens", **_FASTER}, table=1),
    "pictures": _PICTURES,
    "pictures-qwen3": _PICTURES,
    "decoder-drops": View(
        {
            "decoder": "decoder",
            "tokens": "tokens",
            "prefill": "prefill, ms",
            "first token": "TTFT, ms",
            "sooner": "TTFT, times faster",
            "peak memory, MB": "peak memory, MB",
        }
    ),
    "decoders": View(
        {"tokens": "tokens", "decoder": "decoder", "its precision": "precision", **_FASTER},
        rows=lambda row: row["tokens"] in (576, 144, 29),
        table=1,
    ),
    "conversation": View(
        {
            "decoder": "decoder",
            "visual tokens": "visual tokens",
            "first question": "first question, ms",
            "second question": "second question, ms",
            "of the first": "of the first",
        }
    ),
    "conversation-stages": View(
        {
            "decoder": "decoder",
            "visual tokens": "visual tokens",
            "first question": "first question, ms",
            "second in its conversation": "second in its conversation, ms",
            "second by itself": "second by itself, ms",
        }
    ),
    **dict.fromkeys(
        (
            "peers",
            "peers-stages",
            "peers-stages-budgets",
            "peers-stages-openvino",
            "peers-qwen3",
        ),
        _PEERS,
    ),
}


def shown(name: str, section: Section) -> str:
    """What the page has of a section, with a link to all of it."""
    view = VIEWS[name]
    parts = [section.about[number] for number in view.about]
    if view.table is not None:
        parts.append(_markdown(view, section.tables[view.table]))
    return "\n\n".join([*parts, f"All figures: [data/{name}.json](data/{name}.json)."])


def _markdown(view: View, table: Table) -> str:
    columns = view.columns or {head: head for head in table.columns}
    places = [table.columns.index(head) for head in columns]
    rows = [row for row in table.rows if view.rows(dict(zip(table.columns, row, strict=True)))]
    lines = [list(columns.values()), ["---"] * len(places)]
    lines += [[_text(row[place]) for place in places] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _text(cell: Cell) -> str:
    """A cell without its spread; with a star where a test says that the difference is none of
    chance."""
    if not isinstance(cell, dict):
        return str(cell)
    p = cell.get("p", 1.0)
    star = "*" if isinstance(p, str) or p < _SURE else ""
    return f"{cell.get('median', cell.get('value'))}{star}"
