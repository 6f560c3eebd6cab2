"""Knows a summary as one web page that needs nothing else: plots, tables, and what pruning
changed."""

from __future__ import annotations

from pathlib import Path

from pocketvlm_measure.evaluation import gallery, plots
from pocketvlm_measure.evaluation.summary import Summary
from pocketvlm_measure.evaluation.tables import headline, notes, tables, warnings
from pocketvlm_measure.reports.page import render, svg_uri


def to_html(summary: Summary, machine: str) -> str:
    """The page; ``machine`` is a line about what was measured on."""
    figure = summary.evaluation.metric.figures[0].capitalize()
    drawn = {
        f"{figure} against budget": plots.against_budget(summary),
        f"{figure} against time to first token": plots.against_first_token(summary),
    }
    return render(
        __package__,
        "report.html.jinja",
        folder=Path(summary.scores[0].answered.subject.folder).name,
        headline=headline(summary),
        warnings=list(warnings(summary)),
        plots=[(title, svg_uri(svg)) for title, svg in drawn.items()],
        tables=tables(summary),
        notes=[*notes(summary), machine],
        drawings=list(gallery.drawings(summary.evaluation)),
    )
