"""Knows how comparisons become figures for a page: shares with intervals, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from parity.cases import DEMO
from parity.compare import fails
from parity.rows import Key
from pocketvlm_export.precisions import GATE_PRECISION
from pocketvlm_measure.table import Table

HEAD = [
    "checkpoint", "method", "setting", "questions", "first token differs, %",
    "answer differs, %", "of these near ties", "logits, largest relative difference",
    "kept sets differ",
]  # fmt: skip


def figures(by_key: Mapping[Key, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each checkpoint, method and setting what its comparisons come to, in order."""
    grouped: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for (checkpoint, method, setting, _), row in by_key.items():
        grouped.setdefault((checkpoint, method, setting), []).append(row)
    return [_summary(*key, rows) for key, rows in grouped.items()]


def failed(by_key: Mapping[Key, Mapping[str, Any]]) -> list[tuple[Key, Mapping[str, Any]]]:
    """The comparisons of float32 that differ beyond a tie."""
    return [
        (key, row)
        for key, row in by_key.items()
        if fails(dict(row), exact=key[2] == GATE_PRECISION)
    ]


def sections(by_key: Mapping[Key, Mapping[str, Any]]) -> dict[str, str]:
    """Markdown by the name of its place in a page: of the demo every setting, of the other
    checkpoints float32 one by one, and every other setting over all of them."""
    demo = {key: row for key, row in by_key.items() if key[0] == DEMO}
    tiny = {key: row for key, row in by_key.items() if key[0] != DEMO}
    exact = {key: row for key, row in tiny.items() if key[2] == GATE_PRECISION}
    together: dict[Key, Mapping[str, Any]] = {}
    checkpoints = list(dict.fromkeys(key[0] for key in tiny))
    for (checkpoint, method, setting, number), row in tiny.items():
        if setting != GATE_PRECISION:
            unlike = number * len(checkpoints) + checkpoints.index(checkpoint)
            together[f"{len(checkpoints)} together", method, setting, unlike] = row
    parts = {"demo": demo, "exact": exact, "together": together}
    return {name: _table(figures(part)) for name, part in parts.items()}


def _table(summaries: Sequence[Mapping[str, Any]]) -> str:
    return Table("", HEAD, [_cells(each) for each in summaries]).markdown().strip()


def _summary(
    checkpoint: str, method: str, setting: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    differing = [row for row in rows if row["at"] is not None]
    return {
        "checkpoint": checkpoint,
        "method": method,
        "setting": setting,
        "questions": len(rows),
        "first": _share(sum(row["at"] == 0 for row in rows), len(rows)),
        "answer": _share(len(differing), len(rows)),
        "ties": sum(row["tie"] for row in differing),
        "margin_median": _median([row["margin"] for row in differing]),
        "logits": max(row["logits"] for row in rows),
        "kept_differ": sum(not row["kept_equal"] for row in rows),
        "kept_ties": sum(row["kept_tie"] for row in rows),
        "failed": sum(fails(dict(row), exact=setting == GATE_PRECISION) for row in rows),
    }


def _share(count: int, of: int) -> dict[str, float]:
    """Percent with Wilson's 95 % interval."""
    low, high = binomtest(count, of).proportion_ci(method="wilson")
    return {"count": count, "percent": 100 * count / of, "low": 100 * low, "high": 100 * high}


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _cells(each: Mapping[str, Any]) -> list[str]:
    shares = [
        f"{share['percent']:.1f} ({share['low']:.1f}-{share['high']:.1f})"
        for share in (each["first"], each["answer"])
    ]
    kept = f"{each['kept_differ']}"
    if each["kept_ties"]:
        kept += f", {each['kept_ties']} ties"
    return [
        each["checkpoint"], each["method"], each["setting"], f"{each['questions']}", *shares,
        f"{each['ties']}", f"{each['logits']:.1e}", kept,
    ]  # fmt: skip
