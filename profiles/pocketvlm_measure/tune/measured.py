"""Knows the source that measures: artifacts in folders, asked and timed on this machine, all of it
kept in two files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.errors import PocketVLMError
from pocketvlm_measure.evaluation.engines.base import Engine
from pocketvlm_measure.evaluation.journal import Journal
from pocketvlm_measure.evaluation.metrics.base import MeanMetric, Metric
from pocketvlm_measure.evaluation.plan import Subject, Task, subjects, tasks
from pocketvlm_measure.evaluation.questions import Broken, Question, QuestionSet
from pocketvlm_measure.evaluation.run import (
    OnBroken,
    answer_all,
    askable,
    check_same,
    conditions,
    refusal,
)
from pocketvlm_measure.machine import Machine
from pocketvlm_measure.profiler import questions as timed
from pocketvlm_measure.profiler.measure import run_once
from pocketvlm_measure.tune.hardest import hardest
from pocketvlm_measure.tune.source import Scores, Taken
from pocketvlm_measure.tune.times import Key, TimesFile
from pocketvlm_measure.tune.tuning import Candidate
from pocketvlm_measure.turns import take_turns

_WARMUP = 1  # answers in a process before the one that is timed


@dataclass(frozen=True)
class Asking:
    """How questions are put.

    Attributes:
        data: the set.
        metric: scores an answer; one that is not a mean of scores counts right and wrong.
        answers: the file that keeps the answers; times are kept beside it, see `times_beside`.
        engine: where tasks are answered.
        workers: of the engine.
        resume: continue with the files.
        on_broken: what happens where a line or a picture is refused.
        max_new_tokens: limit of an answer.
        agreement: the questions have no answers: expected is what the baseline answers.
    """

    data: QuestionSet
    metric: Metric
    answers: Path
    engine: Engine
    workers: int = 1
    resume: bool = False
    on_broken: OnBroken = "stop"
    max_new_tokens: int = 64
    agreement: bool = False


class _Artifacts(dict[str, Artifact]):
    """By folder, each opened when it is first needed: some are exported meanwhile."""

    def __missing__(self, folder: str) -> Artifact:
        self[folder] = artifact = Artifact.open(folder)
        return artifact


@dataclass
class Measured:
    """A `Source` whose candidates lie in folders. Its files are open within a ``with``.

    Attributes:
        baseline, candidates: see `Source`.
        asking: how questions are put.
        skipped: lines that could not be asked.
    """

    baseline: Candidate
    candidates: Sequence[Candidate]
    asking: Asking
    skipped: list[Broken] = field(default_factory=list)

    def __post_init__(self) -> None:
        data = self.asking.data
        questions, self.skipped = askable(data, self.asking.metric)
        if self.skipped and self.asking.on_broken == "stop":
            raise refusal(data, min(self.skipped, key=lambda item: item.line))
        self._questions, self.pictures = in_asking_order(questions, data.sha256)
        self._artifacts = _Artifacts()
        self._timed = hardest(self._artifacts[self.baseline.folder], questions)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        asking, case = self.asking, self.baseline.case
        with ExitStack() as opened:
            head = conditions(asking.data, case, asking.max_new_tokens)
            self._journal = opened.enter_context(
                Journal(asking.answers, head, resume=asking.resume)
            )
            check_same(asking.data, self._questions, self._journal)
            self._times = opened.enter_context(
                TimesFile(times_beside(asking.answers), self._measured_on(), resume=asking.resume)
            )
            self._opened = opened.pop_all()
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def clock(self) -> float:
        """See `Source`."""
        return time.monotonic() - self._began

    def answer(
        self, candidates: Sequence[Candidate], questions: Sequence[int], until: float
    ) -> Scores:
        """See `Source`.

        Raises:
            PocketVLMError: a line, picture or clip is refused and ``on_broken`` is ``"stop"``.
        """
        asked = [self._questions[index] for index in questions]
        left = list(self._left(candidates, asked))
        for replies in answer_all(self._journal, self.asking.engine, self._in_time(left, until)):
            for reply in replies:
                if reply.error is not None:
                    broken = Broken(reply.line, reply.error)
                    if self.asking.on_broken == "stop":
                        raise refusal(self.asking.data, broken)
                    self.skipped.append(broken)
        return {one: self._scores(one, questions) for one in candidates}

    def turn(
        self, candidates: Sequence[Candidate], number: int, until: float
    ) -> Mapping[Candidate, Taken | str]:
        """See `Source`; each run in a process of its own."""
        recorded = self._times.turns.get(number, {})
        keys = {one: self._key(one) for one in candidates}
        if all(key in recorded for key in keys.values()):
            return {one: recorded[key] for one, key in keys.items()}
        taken: dict[Candidate, Taken | str] = {}
        for _, one, result in take_turns(candidates, self._run, 1, first_turn=number):
            taken[one] = result
            if self.clock() >= until:
                break
        self._times.add(number, {keys[one]: what for one, what in taken.items()})
        return taken

    def _run(self, candidate: Candidate) -> Taken | str:
        try:
            candidate.case.ensure_trusted(self._artifacts[candidate.folder])
            sample = run_once(candidate.folder, candidate.case, self._timed, _WARMUP)
        except PocketVLMError as error:
            return error.reason
        return Taken(round(sample.stages["ttft"], 3), sample.peak_bytes)

    def _left(self, candidates: Sequence[Candidate], asked: Sequence[Question]) -> Iterator[Task]:
        """What candidates have not answered: budgets that differ in nothing else share a task."""
        for subject in self._subjects(candidates):
            yield from tasks(subject, asked, self._journal.replies, self.asking.max_new_tokens)

    def _subjects(self, candidates: Sequence[Candidate]) -> Iterator[Subject]:
        by_folder: dict[str, list[Candidate]] = {}
        for one in candidates:
            by_folder.setdefault(one.folder, []).append(one)
        for folder, own in by_folder.items():
            cases = [one.case for one in sorted(own, key=lambda one: -one.case.budget)]
            yield from subjects(Path(folder), self._artifacts[folder], cases, self.asking.workers)

    def _in_time(self, left: Iterable[Task], until: float) -> Iterator[Task]:
        for task in left:
            if self.clock() >= until:
                return
            yield task

    def _scores(self, candidate: Candidate, questions: Iterable[int]) -> dict[int, float]:
        (subject,) = self._subjects([candidate])
        scores = {}
        for index in questions:
            question = self._questions[index]
            reply = self._journal.replies.get(subject.key(question.line, candidate.case))
            expected = self._expected(question)
            if reply is not None and expected is not None:
                parts = self.asking.metric.parts(reply.text, expected)
                scores[index] = score_of(self.asking.metric, parts)
        return scores

    def _expected(self, question: Question) -> Sequence[str] | None:
        """The answers that count; None where the baseline has yet to give its own."""
        if not self.asking.agreement:
            return question.answers
        (subject,) = self._subjects([self.baseline])
        own = self._journal.replies.get(subject.key(question.line, self.baseline.case))
        return None if own is None or own.error is not None else (own.text,)

    def _key(self, candidate: Candidate) -> Key:
        return self._artifacts[candidate.folder].manifest.content_id, repr(candidate.case)

    def _measured_on(self) -> dict[str, Any]:
        """What times depend on beside the candidate."""
        machine = Machine.look(0)
        return {
            "cpu": machine.cpu,
            "cpus": machine.cpus,
            "versions": dict(machine.versions),
            "data_sha256": self.asking.data.sha256,
            "prompt": self._timed.prompt,
            "images": list(self._timed.images),
            "videos": list(self._timed.videos),
        }

    @property
    def timed(self) -> timed.Question:
        """What every timed run answers."""
        return self._timed


def score_of(metric: Metric, parts: Sequence[float]) -> float:
    """What an answer counts, 0 to 1, from its parts: its score, or whether it is right where the
    metric's figure is not a mean of scores."""
    return float(parts[0] if isinstance(metric, MeanMetric) else metric.is_right(parts))


def in_asking_order(
    questions: Sequence[Question], sha256: str
) -> tuple[list[Question], npt.NDArray[np.int64]]:
    """Questions with their pictures' numbers, see `Source.pictures`: shuffled by picture, the same
    way whenever one file, of this SHA-256, is asked."""
    by_media: dict[object, list[Question]] = {}
    for question in questions:
        by_media.setdefault(question.media or question.line, []).append(question)
    seed = int.from_bytes(hashlib.sha256(sha256.encode()).digest()[:8], "little")
    groups = list(by_media.values())
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = [groups[number] for number in order]
    numbers = [number for number, group in enumerate(shuffled) for _ in group]
    return [one for group in shuffled for one in group], np.array(numbers, dtype=np.int64)


def times_beside(answers: Path) -> Path:
    """The file of times that belongs to a file of answers."""
    return answers.with_name(f"{answers.stem}.times.jsonl")
