"""Knows a profile as one web page that needs nothing else: plots, tables with every sample, what the model looks at."""

from __future__ import annotations

import base64
import importlib.resources
import io
from collections.abc import Iterator
from pathlib import Path

import jinja2
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.overlay import draw_budgets
from pocketvlm.profiler import plots
from pocketvlm.profiler.result import Profile
from pocketvlm.profiler.tables import Table, compact, headline, notes, tables


def to_html(profile: Profile, artifact: Artifact) -> str:
    """The page; raises `PocketVLMError` without matplotlib.

    Text from artifacts and prompts is escaped, the page holds no script, and its pictures lie inside it.
    """
    plots.check_plots()
    source = importlib.resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    return template.render(
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
            yield title, _data_uri("image/svg+xml", svg)


def _overlays(profile: Profile, artifact: Artifact) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(picture, [(budget, data URI)]) of each picture given; noise is not worth looking at."""
    budgets = sorted({result.case.budget for result in profile.results}, reverse=True)
    for image in profile.question.images:
        drawn = draw_budgets(artifact, image, budgets, profile.results[0].case.vision_precision)
        yield Path(image).name, [(budget, _jpeg(drawing)) for budget, (drawing, _) in drawn.items()]


def _jpeg(drawing: Image.Image) -> str:
    file = io.BytesIO()
    drawing.save(file, format="JPEG", quality=90)
    return _data_uri("image/jpeg", file.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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
