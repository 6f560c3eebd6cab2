"""Knows how the learning curve is drawn: loss and held-out accuracy by kind of question against the
computing time of training, stages behind one another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm_measure.reports.plots import to_svg
from train_reference.scenes import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = Mapping[str, Any]


def read_points(path: Path) -> list[Point]:
    """All points in order; of a step that a resumed run reached again the last one."""
    points = {}
    for line in path.read_text().splitlines():
        point = json.loads(line)
        points[point["stage"], point["step"]] = point
    return list(points.values())


def table(points: Sequence[Point]) -> str:
    """Markdown: a row a point of the stages that ask questions."""
    head = ["stage", "step", "pictures", "loss", "all kinds", *KINDS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for point in points:
        if "exact" in point:
            shares = [f"{100 * point[name]:.1f}" for name in ("exact", *KINDS) if name in point]
            cells = [point["stage"], point["step"], point["pictures"], f"{point['loss']:.3f}"]
            lines.append(f"| {' | '.join(map(str, [*cells, *shares]))} |")
    return "\n".join(lines)


def draw(points: Sequence[Point]) -> bytes:
    """An SVG file: exact match in per cent by kind, against pictures that were read."""
    asked = [point for point in points if "exact" in point]
    at, before, stage = [], 0, ""
    for previous, point in zip([None, *asked], asked, strict=False):
        if previous and point["stage"] != stage:
            before += previous["pictures"]
        stage = point["stage"]
        at.append(before + point["pictures"])

    def paint(axes: Axes) -> None:
        for name in ("exact", *KINDS):
            axes.plot(
                at,
                [100 * point.get(name, float("nan")) for point in asked],
                label="all kinds" if name == "exact" else name,
                linewidth=2.4 if name == "exact" else 1.2,
                marker="o",
                markersize=3,
            )
        for x, (earlier, later) in zip(at[1:], pairwise(asked), strict=True):
            if earlier["stage"] != later["stage"]:
                axes.axvline(x, color="0.7", linewidth=0.8)
        axes.set_xlabel("pictures read, each with all its questions")
        axes.set_ylabel("held-out exact match, %")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.25)
        axes.legend(ncols=3, frameon=False, fontsize=8)

    return to_svg(paint)
