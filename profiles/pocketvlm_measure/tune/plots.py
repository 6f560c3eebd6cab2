"""Knows how the frontier of a tuning is drawn, as an SVG file's bytes. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from pocketvlm_measure.reports.plots import to_svg
from pocketvlm_measure.tune import words
from pocketvlm_measure.tune.tuning import Evidence, Tuning, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 5.0  # inches
_LIMIT = "#b2182b"
# By verdict: colour, marker, whether it is filled. Told apart without colours too.
_LOOKS: dict[Verdict, tuple[str, str, bool]] = {
    "baseline": ("#222222", "s", True),
    "holds": ("#0072b2", "o", True),
    "likely holds": ("#0072b2", "o", False),
    "likely loses more": ("#d55e00", "v", False),
    "loses more": ("#d55e00", "v", True),
    "undecided": ("#e69f00", "d", False),
    "over a limit": ("#cc79a7", "X", True),
    "slower": ("#777777", ">", False),
    "not reached": ("#777777", "D", False),
}
_OTHER = ("#777777", "P", False)
_CHOSEN = ("#009e73", "*")


def frontier(tuning: Tuning) -> bytes:
    """What was lost, with its interval, against the median time to first token: every candidate
    that was timed and asked. Limits are lines, the choice is a star."""

    def draw(axes: Axes) -> None:
        shown = drawn(tuning)
        for verdict in dict.fromkeys(one.verdict for one in shown):
            _points(axes, [one for one in shown if one.verdict == verdict], verdict)
        if tuning.chosen is not None and tuning.chosen in shown:
            colour, marker = _CHOSEN
            axes.plot(
                *_place(tuning.chosen),
                marker,
                color=colour,
                markersize=17,
                zorder=1,
                label="chosen",
            )
        _unasked(axes, tuning)
        _limits(axes, tuning)
        axes.set_xlabel("time to first token, ms: median; numbers: visual tokens")
        axes.set_ylabel(f"{tuning.figure}, points against {words.baseline(tuning)}")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        axes.figure.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)

    return to_svg(draw, height=_HEIGHT)


def drawn(tuning: Tuning) -> list[Evidence]:
    """Those that have a place in the drawing: the baseline, and what was timed and asked."""
    return [
        one
        for one in (tuning.baseline, *tuning.evidence)
        if one.ttft_ms and (one.difference is not None or one is tuning.baseline)
    ]


def _points(axes: Axes, of: Sequence[Evidence], verdict: Verdict) -> None:
    colour, marker, filled = _LOOKS.get(verdict, _OTHER)
    places = [_place(one) for one in of]
    low, high = zip(*map(_reach, of), strict=True)
    axes.errorbar(
        [x for x, _ in places],
        [y for _, y in places],
        [low, high],
        fmt=marker,
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=6,
        elinewidth=0.8,
        capsize=2,
        label=verdict,
    )
    for one, place in zip(of, places, strict=True):
        axes.annotate(
            str(one.candidate.case.budget),
            place,
            xytext=(4, -9),
            textcoords="offset points",
            fontsize=7,
        )


def _place(one: Evidence) -> tuple[float, float]:
    return median(one.ttft_ms), 100 * one.difference.value if one.difference else 0.0


def _reach(one: Evidence) -> tuple[float, float]:
    """How far the interval reaches below and above, in points."""
    if one.difference is None:
        return 0.0, 0.0
    value, low, high = one.difference.value, one.difference.low, one.difference.high
    return 100 * max(0.0, value - low), 100 * max(0.0, high - value)


def _unasked(axes: Axes, tuning: Tuning) -> None:
    """A mark at the lower edge for each that was timed and not asked."""
    times = [median(one.ttft_ms) for one in tuning.evidence if one.ttft_ms and not one.difference]
    if times:
        colour, _, _ = _OTHER
        axes.plot(
            times,
            [0.02] * len(times),
            "|",
            color=colour,
            transform=axes.get_xaxis_transform(),
            label="not asked",
        )


def _limits(axes: Axes, tuning: Tuning) -> None:
    limits = tuning.limits
    axes.axhline(
        -limits.max_loss, color=_LIMIT, linestyle="--", linewidth=1, label="limit of the loss"
    )
    if limits.max_ttft is not None:
        axes.axvline(
            limits.max_ttft, color=_LIMIT, linestyle=":", linewidth=1, label="limit of the time"
        )
