"""Knows a profile as one self-contained web page: plots, tables with every sample, and the patches
kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pocketvlm.artifact import Artifact
from pocketvlm.layouts import Medium
from pocketvlm.vision.overlay import draw_budgets, open_encoders
from pocketvlm_measure.profiler import plots
from pocketvlm_measure.profiler.result import Profile
from pocketvlm_measure.profiler.tables import headline, notes, tables
from pocketvlm_measure.progress import progress
from pocketvlm_measure.reports.page import jpeg_uri, render, svg_uri
from pocketvlm_measure.table import Table, compact


def to_html(profile: Profile, artifact: Artifact) -> str:
    """The page."""
    return render(
        __package__,
        "report.html.jinja",
        headline=headline(profile),
        prompt=profile.question.prompt,
        folder=profile.folder,
        started=profile.started,
        notes=list(notes(profile)),
        warnings=profile.warnings(),
        plots=list(_plots(profile)),
        tables=[*tables(profile), _spreads(profile)],
        overlays=list(_overlays(profile, artifact)),
    )


def _plots(profile: Profile) -> Iterator[tuple[str, str]]:
    """(title, data URI) of each plot that can be drawn."""
    drawn = {
        "Where the time of an answer goes": plots.stacked_stages(profile),
        "Time to first token": plots.first_token(profile),
        "Peak memory": plots.peak_memory(profile),
        "Decoding": plots.decode_rate(profile),
    }
    for title, svg in drawn.items():
        if svg is not None:
            yield title, svg_uri(svg)


def _overlays(profile: Profile, artifact: Artifact) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(name, [(budget, data URI)]) of each picture or clip given; noise is not drawn."""
    budgets = sorted({result.case.budget for result in profile.results}, reverse=True)
    precision, question = profile.results[0].case.vision_precision, profile.question
    given: list[tuple[Medium, str]] = [("image", path) for path in question.images]
    given += [("video", path) for path in question.videos]
    numbers = Counter(medium for medium, _ in given)
    parts = {medium: artifact.reading(medium) for medium in numbers}
    encoders = {medium: open_encoders(part, budgets, precision) for medium, part in parts.items()}
    for medium, path in progress(given, desc="drawing", leave=False):
        drawn = draw_budgets(
            parts[medium], path, budgets, encoders[medium], numbers[medium], question.prompt
        )
        yield (
            Path(path).name,
            [(budget, jpeg_uri(drawing)) for budget, (drawing, _) in drawn.items()],
        )


def _spreads(profile: Profile) -> Table:
    head = ["configuration", "stage", "median", "p95", "stddev", "every sample, in order"]
    body = [
        [
            str(result.case),
            stage,
            *(compact(value) for value in (spread.median, spread.p95, spread.deviation)),
            " ".join(compact(sample) for sample in spread.samples),
        ]
        for result in profile.results
        for stage, spread in result.stages.items()
    ]
    return Table("Every stage in milliseconds:", head, body)
