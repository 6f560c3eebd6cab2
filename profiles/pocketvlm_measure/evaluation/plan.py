"""Knows what is to be asked of which artifact: subjects, their cases, and the questions of one
picture as a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.artifact import Artifact, Manifest, pick_graph
from pocketvlm.errors import PocketVLMError
from pocketvlm.ort.settings import physical_cores
from pocketvlm_measure.cases import Case, sweep
from pocketvlm_measure.evaluation.questions import Question

Key = tuple[str, int, int, str, str, str]


@dataclass(frozen=True)
class Subject:
    """What a process loads at once: one decoder and one vision precision of an artifact, at several
    budgets.

    Attributes:
        folder: of the artifact.
        artifact_id: its own.
        cases: `Case`s of one family, the most visual tokens first.
    """

    folder: str
    artifact_id: str
    cases: tuple[Case, ...]

    def key(self, line: int, case: Case) -> Key:
        """What tells an answer from all others."""
        return (
            self.artifact_id,
            line,
            case.budget,
            case.decoder,
            case.decoder_precision,
            case.vision_precision,
        )


@dataclass(frozen=True)
class Task:
    """Questions about the same pictures, with the budgets at which each is still to be answered."""

    subject: Subject
    asked: tuple[tuple[Question, tuple[int, ...]], ...]
    max_new_tokens: int

    @property
    def answers(self) -> int:
        """How many are to be given."""
        return sum(len(budgets) for _, budgets in self.asked)


def subjects(
    folder: Path, artifact: Artifact, cases: Iterable[Case], workers: int = 1
) -> list[Subject]:
    """The cases by family; several workers share the cores where nobody says how many threads each
    takes."""
    by_family: dict[tuple[str, str, str, int], list[Case]] = {}
    for case in cases:
        threads = case.threads or (None if workers == 1 else max(1, physical_cores() // workers))
        by_family.setdefault(case.family, []).append(dataclasses.replace(case, threads=threads))
    return [
        Subject(str(folder.resolve()), artifact.manifest.artifact_id, tuple(found))
        for found in by_family.values()
    ]


def tasks(
    subject: Subject, questions: Sequence[Question], done: Iterable[Key], max_new_tokens: int
) -> list[Task]:
    """What is left to be asked of a subject, by picture in order of appearance."""
    known = set(done)
    by_images: dict[tuple[str, ...], list[tuple[Question, tuple[int, ...]]]] = {}
    for question in questions:
        left = tuple(
            case.budget for case in subject.cases if subject.key(question.line, case) not in known
        )
        if left:
            # Questions without a picture have none to share.
            by_images.setdefault(question.images or (str(question.line),), []).append(
                (question, left)
            )
    return [Task(subject, tuple(asked), max_new_tokens) for asked in by_images.values()]


def baseline_cases(manifest: Manifest, cases: Sequence[Case]) -> dict[Case, Case]:
    """For each case the one of another artifact that it is held against: the same as far as that
    artifact has it, its default for what it has not."""
    found = {}
    for case in cases:
        budget = case.budget if _serves(manifest, case.budget) else manifest.pruning.default_budget
        found[case] = _nearest(manifest, case, budget)
    return found


def _nearest(manifest: Manifest, case: Case, budget: int) -> Case:
    wishes = {
        "decoders": (case.decoder,),
        "decoder_precisions": (case.decoder_precision,),
        "vision_precisions": (case.vision_precision,),
    }
    # Given up one by one, the engine last, until the artifact has what is left.
    for names in (
        tuple(wishes),
        ("decoders", "decoder_precisions"),
        ("decoders", "vision_precisions"),
        ("decoders",),
    ):
        wanted: dict[str, Any] = {name: wishes[name] for name in names}
        try:
            return sweep(manifest, budgets=[budget], threads=[case.threads], **wanted)[0]
        except PocketVLMError:
            continue
    return sweep(manifest, budgets=[budget], threads=[case.threads])[0]


def _serves(manifest: Manifest, budget: int) -> bool:
    try:
        pick_graph(manifest, budget)
    except PocketVLMError:
        return False
    return True
