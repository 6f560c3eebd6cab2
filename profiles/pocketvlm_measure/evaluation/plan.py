"""Knows what is asked of which artifact: subjects, their cases, and the questions about one picture
or clip as a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.artifact import Artifact, Manifest, pick_graph, serving_graph
from pocketvlm.layouts import caps_within, layout_config, make_layout
from pocketvlm.limits import whole
from pocketvlm.ort.settings import physical_cores
from pocketvlm_measure.cases import Case, has_precision
from pocketvlm_measure.evaluation.questions import Question

Key = tuple[str, int, int, str, str, str, int | None, int | None]


@dataclass(frozen=True)
class GuideOf:
    """The guide of a subject, see `pocketvlm.guided.Guided`.

    Attributes:
        folder: of its artifact.
        content_id: as `Subject` has it.
        confidence: from which on its own answer is the answer; None for never.
    """

    folder: str
    content_id: str
    confidence: float | None = None


@dataclass(frozen=True)
class Subject:
    """What a process loads at a time: a decoder and a vision precision of an artifact, at several
    budgets.

    Attributes:
        folder: of the artifact.
        artifact_id: as its manifest states it.
        content_id: what tells it from every other, see `Manifest.content_id`.
        cases: `Case`s of one family under the same caps on pictures, the most visual tokens first.
        guide: who answers first; None for nobody.
        shares_prefill: whether questions about a picture continue from one prefill of it, see
            `pocketvlm.SequenceLimits.fixed_runs`.
    """

    folder: str
    artifact_id: str
    content_id: str
    cases: tuple[Case, ...]
    guide: GuideOf | None = None
    shares_prefill: bool = False

    @property
    def name(self) -> str:
        """For people."""
        own = Path(self.folder).name
        if self.guide is None:
            return own
        sure = self.guide.confidence
        return f"{own} by {Path(self.guide.folder).name}" + (
            "" if sure is None else f" from {sure:g}"
        )

    def key(self, line: int, case: Case) -> Key:
        """What identifies an answer among all others."""
        guide = self.guide
        by = "" if guide is None else f"+{guide.content_id}@{guide.confidence}"
        by += "".join(f"+{provider}" for provider in case.providers)
        return (
            f"{self.content_id}{by}",
            line,
            case.budget,
            case.decoder,
            case.decoder_precision,
            case.vision_precision,
            case.max_pixels,
            case.max_tiles,
        )


@dataclass(frozen=True)
class Task:
    """Questions about the same pictures and clips, each with the budgets at which it is still
    unanswered."""

    subject: Subject
    asked: tuple[tuple[Question, tuple[int, ...]], ...]
    max_new_tokens: int

    @property
    def answers(self) -> int:
        """How many answers it asks for."""
        return sum(len(budgets) for _, budgets in self.asked)


def subjects(
    folder: Path,
    artifact: Artifact,
    cases: Iterable[Case],
    workers: int = 1,
    guide: GuideOf | None = None,
    *,
    shares_prefill: bool = False,
) -> list[Subject]:
    """The cases by family and caps; several workers share the cores where no number of threads is
    given."""
    workers = whole(workers, "workers", least=1)
    by_family: dict[tuple[Any, ...], list[Case]] = {}
    for case in cases:
        threads = case.threads or (None if workers == 1 else max(1, physical_cores() // workers))
        alike = (case.family, case.max_pixels, case.max_tiles)
        by_family.setdefault(alike, []).append(dataclasses.replace(case, threads=threads))
    manifest, name = artifact.manifest, str(folder.resolve())
    return [
        Subject(
            name, manifest.artifact_id, manifest.content_id, tuple(family), guide, shares_prefill
        )
        for family in by_family.values()
    ]


def guide_of(folder: Path | None, confidence: float | None) -> GuideOf | None:
    """The guide in a folder; None without one. Raises `PocketVLMError` if it is not an artifact."""
    if folder is None:
        return None
    manifest = Artifact.open(folder).manifest
    return GuideOf(str(folder.resolve()), manifest.content_id, confidence)


def tasks(
    subject: Subject, questions: Sequence[Question], done: Iterable[Key], max_new_tokens: int
) -> list[Task]:
    """The questions that a subject has not answered yet, by picture or clip in order of
    appearance."""
    answered = set(done)
    by_media: dict[tuple[tuple[str, ...], ...], list[tuple[Question, tuple[int, ...]]]] = {}
    for question in questions:
        left = tuple(
            case.budget
            for case in subject.cases
            if subject.key(question.line, case) not in answered
        )
        if left:
            # Questions about nothing have nothing to share.
            media = (question.images, question.videos)
            alone = ((str(question.line),),)
            by_media.setdefault(media if any(media) else alone, []).append((question, left))
    return [Task(subject, tuple(asked), max_new_tokens) for asked in by_media.values()]


def baseline_cases(manifest: Manifest, cases: Sequence[Case]) -> dict[Case, Case]:
    """For each case the one of another artifact that it is compared with: the same as far as that
    artifact has it, its default for what it has not."""
    return {case: _nearest(manifest, case) for case in cases}


def _nearest(manifest: Manifest, case: Case) -> Case:
    decoder, vision = manifest.decoder, manifest.vision
    layout = make_layout(layout_config(manifest))
    graph, budget = serving_graph(manifest, case.budget), case.budget
    if graph is None:
        budget = manifest.pruning.default_budget
        graph = pick_graph(manifest, budget)
    engine = case.decoder if case.decoder in decoder.engines else decoder.default_engine
    precision = case.decoder_precision
    if not has_precision(manifest, engine, precision):
        precision = decoder.default_precisions[engine]
    vision_precision = case.vision_precision
    if vision_precision not in vision.graphs[graph]:
        vision_precision = vision.default_precision
    caps = caps_within(layout, max_pixels=case.max_pixels, max_tiles=case.max_tiles)
    return dataclasses.replace(
        case,
        budget=budget,
        decoder=engine,
        decoder_precision=precision,
        vision_precision=vision_precision,
        context=None,
        max_pixels=caps["max_pixels"],
        max_tiles=caps["max_tiles"],
    )
