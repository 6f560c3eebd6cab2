"""Knows what selecting visual tokens costs within the vision graph: ONNX Runtime profiles its
nodes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.artifact import Artifact, metadata, pick_graph, pick_precision
from pocketvlm.layouts import open_layout
from pocketvlm.ort.sessions import open_session
from pocketvlm.ort.settings import EngineSettings
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_measure.spread import Spread

_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Selection:
    """Milliseconds of the nodes that select, and of all nodes, for each run."""

    select: tuple[float, ...]
    nodes: tuple[float, ...]

    @property
    def share(self) -> float:
        """Selection's share of the vision graph's time, 0 to 1: the median over runs."""
        return Spread(
            [part / whole for part, whole in zip(self.select, self.nodes, strict=True)]
        ).median


def measure_selection(
    artifact: Artifact,
    shown: Any,
    *,
    budget: int,
    precision: str,
    settings: EngineSettings,
    runs: int,
) -> Selection | None:
    """Run the vision graph that serves ``budget`` on the first tile of a picture, or frame of a
    clip, once to warm up and then ``runs`` times with its nodes timed.

    ``shown`` is what the artifact's layout cuts.

    None where no node of the graph is named as selecting, or where the prompt decides, which
    another graph reads: that one is a stage of every answer, see `pocketvlm.answer.Timings`.
    """
    manifest = artifact.manifest
    if manifest.vision.selectors:
        return None
    k = pick_graph(manifest, budget)
    name = pick_precision(
        manifest.vision.graphs[k],
        precision,
        f"vision graph at budget {k}",
        setting="vision_precision",
    )
    pixels = open_layout(artifact).cut(shown).pixel_values[:1]
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(
            artifact,
            name,
            metadata.VISION_ENCODER,
            budget=k,
            settings=settings,
            profile=Path(folder) / "nodes",
        )
        encoder = VisionEncoder(session, manifest, k, precision)
        for _ in range(1 + runs):
            encoder.encode(pixels)
        events = json.loads(Path(session.end_profiling()).read_text())
    return read_events(events)


def read_events(events: Iterable[Mapping[str, Any]]) -> Selection | None:
    """The `Selection` in ONNX Runtime's profile (in microseconds), without the first run; None
    where no node is named as selecting."""
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")[1:]
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL)]
    if not any(e["name"].startswith(metadata.SELECTION) for e in kernels):
        return None
    of_run = [[e for e in kernels if begin <= e["ts"] <= end] for begin, end in runs]
    selecting = [[e for e in run if e["name"].startswith(metadata.SELECTION)] for run in of_run]
    return Selection(tuple(map(_milliseconds, selecting)), tuple(map(_milliseconds, of_run)))


def _milliseconds(events: Iterable[Mapping[str, Any]]) -> float:
    return sum(float(event["dur"]) for event in events) / 1e3
