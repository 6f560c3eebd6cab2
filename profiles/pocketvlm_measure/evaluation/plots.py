"""Knows how a summary is drawn: each plot as an SVG file's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pocketvlm_measure.evaluation.summary import Score, Summary
from pocketvlm_measure.evaluation.tables import family_name
from pocketvlm_measure.reports.plots import to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def against_budget(summary: Summary) -> bytes:
    """The headline figure with its interval against the visual tokens kept, a line per family."""
    return _against(
        summary, "visual tokens kept per picture", lambda score: score.answered.case.budget
    )


def against_first_token(summary: Summary) -> bytes:
    """The same against the median time to first token."""
    return _against(summary, "time to first token, ms: median", lambda score: score.ttft_ms.median)


def _against(summary: Summary, axis: str, where: Callable[[Score], float]) -> bytes:
    def draw(axes: Axes) -> None:
        names = []
        for name, scores in _families(summary):
            names.append(name)
            values = [100 * score.headline.value for score in scores]
            # With very few pictures an interval need not contain its figure; a bar that would point
            # the wrong way is not drawn.
            below = [
                max(0.0, 100 * (score.headline.value - score.headline.low)) for score in scores
            ]
            above = [
                max(0.0, 100 * (score.headline.high - score.headline.value)) for score in scores
            ]
            axes.errorbar(
                [where(s) for s in scores],
                values,
                [below, above],
                marker="o",
                capsize=3,
                label=name,
            )
            for score, value in zip(scores, values, strict=True):
                label = f"{score.answered.case.budget}"
                axes.annotate(
                    label,
                    (where(score), value),
                    xytext=(4, -10),
                    textcoords="offset points",
                    fontsize=7,
                )
        axes.set_xlabel(axis)
        axes.set_xlim(left=0)
        axes.set_ylabel(f"{summary.evaluation.metric.figures[0]}, % (95 % intervals)")
        axes.grid(alpha=0.3)
        if any(names):
            axes.legend(frameon=False)

    return to_svg(draw)


def _families(summary: Summary) -> Iterator[tuple[str, list[Score]]]:
    """(name, scores by budget) of cases that differ in their budgets only; undefined figures are
    left out."""
    by_subject: dict[int, list[Score]] = {}
    for score in summary.scores:
        if score.headline.value == score.headline.value:  # a number
            by_subject.setdefault(id(score.answered.subject), []).append(score)
    for scores in by_subject.values():
        scores.sort(key=lambda score: score.answered.case.budget)
        yield family_name(summary, scores[0]), scores
