"""Knows how the frontier is drawn: accuracy with intervals against the time to first token,
methods as colours, stages as markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from frontier.points import Point, pareto
from pocketvlm_measure.reports.plots import to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 5.6  # inches
# Told apart on the white that the picture brings along, by eyes that see red and green alike too;
# further methods repeat the colours, with a hollow marker.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#7f5f00",
    "#e69f00",
    "#56b4e9",
    "#6a3d9a",
    "#b2182b",
    "#444444",
    "#8c9a00",
    "#00a6a6",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")
_FAINT, _LINE = 0.35, "#222222"
_UP = (9, -15, 20, -26)  # where a label goes, in points, where there is room
_CLOSE = (0.03, 3.5)  # labels this close in time and in per cent would touch


def draw(points: Sequence[Point]) -> bytes:
    """An SVG file: all timed points; those of the frontier joined, with their budgets."""
    timed = [one for one in points if one.first_token is not None]
    colours = _given(COLOURS, dict.fromkeys(one.method for one in timed))
    markers = _given(MARKERS, dict.fromkeys(one.stages for one in timed))
    best = pareto(timed)

    def paint(axes: Axes) -> None:
        for one in timed:
            _mark(axes, one, colours[one.method], markers[one.stages], strong=one in best)
        axes.plot(
            [_time(one) for one in best],
            [100 * one.exact.value for one in best],
            color=_LINE,
            linewidth=1.2,
            zorder=1,
        )
        _label(axes, best)
        axes.set_xlabel(
            f"time to first token, of the unpruned one's; numbers: tokens kept of {timed[0].tokens}"
        )
        axes.set_ylabel("exact match, % (95 % intervals)")
        axes.grid(alpha=0.25)
        _legend(axes, colours, markers)

    return to_svg(paint, height=_HEIGHT)


def _mark(axes: Axes, one: Point, colour: str, marker: str, *, strong: bool) -> None:
    value, low, high = (100 * part for part in (one.exact.value, one.exact.low, one.exact.high))
    axes.errorbar(
        [_time(one)],
        [value],
        [[max(0.0, value - low)], [max(0.0, high - value)]],
        fmt=marker,
        color=colour,
        markersize=7 if strong else 4.5,
        elinewidth=1.0 if strong else 0.6,
        capsize=0,
        alpha=1.0 if strong else _FAINT,
        zorder=3 if strong else 2,
    )


def _time(one: Point) -> float:
    assert one.first_token is not None
    return one.first_token


def _label(axes: Axes, best: Sequence[Point]) -> None:
    """The budget of each, in the first place that no other label is close to; none where there is
    no such place, or where a neighbour already says it."""
    taken: list[tuple[int, float, float]] = []
    for one in best:
        x, y = _time(one), 100 * one.exact.value
        if any(_near(2, (x, y), other) for budget, *other in taken if budget == one.budget):
            continue
        up = next(
            (up for up in _UP if not any(_near(1, (x, y + up / 4), other) for _, *other in taken)),
            None,
        )
        if up is None:
            continue
        taken.append((one.budget, x, y + up / 4))
        axes.annotate(
            str(one.budget),
            (x, y),
            xytext=(0, up),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            color=_LINE,
        )


def _near(times: float, place: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two labels are closer than so many times where they would touch."""
    return all(
        abs(here - there) <= times * close
        for here, there, close in zip(place, other, _CLOSE, strict=True)
    )


def _legend(axes: Axes, colours: Mapping[str, str], markers: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    methods = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=method)
        for method, colour in colours.items()
    ]
    stages = [
        Line2D([], [], color=_LINE, marker=marker, linestyle="", label=name or "no stage")
        for name, marker in markers.items()
    ]
    frontier = Line2D([], [], color=_LINE, linewidth=1.2, label="no other is better and faster")
    axes.figure.legend(
        handles=[*methods, *stages, frontier],
        loc="outside lower center",
        ncols=3,
        fontsize=7,
        frameon=False,
    )


def _given(choices: Sequence[str], names: Mapping[str, None]) -> dict[str, str]:
    return {name: choices[number % len(choices)] for number, name in enumerate(names)}
