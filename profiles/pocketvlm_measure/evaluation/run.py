"""Knows how an evaluation is run: unanswered questions are asked, and every answer is written down
at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pocketvlm.errors import RequestError
from pocketvlm.limits import whole
from pocketvlm_measure.cases import Case
from pocketvlm_measure.evaluation.asking import Reply
from pocketvlm_measure.evaluation.engines.base import Engine
from pocketvlm_measure.evaluation.journal import Journal
from pocketvlm_measure.evaluation.media import fingerprint
from pocketvlm_measure.evaluation.metrics.base import Metric
from pocketvlm_measure.evaluation.plan import Subject, Task, tasks
from pocketvlm_measure.evaluation.questions import Broken, Question, QuestionSet
from pocketvlm_measure.progress import counter

OnBroken = Literal["stop", "skip"]


@dataclass(frozen=True)
class Answered:
    """One case of one artifact, with a reply to every question that counts, in their order."""

    subject: Subject
    case: Case
    replies: Sequence[Reply]


@dataclass(frozen=True)
class Evaluation:
    """What was answered.

    Attributes:
        data: the set that was asked.
        questions: those that count: answered in every case, so that cases are compared on the same
            ones.
        skipped: the others, by line.
        answered: every case.
        metric: what scores them.
    """

    data: QuestionSet
    questions: Sequence[Question]
    skipped: Sequence[Broken]
    answered: Sequence[Answered]
    metric: Metric


def evaluate(
    data: QuestionSet,
    subjects: Sequence[Subject],
    metric: Metric,
    answers: Path,
    engine: Engine,
    *,
    resume: bool = False,
    on_broken: OnBroken = "stop",
    max_new_tokens: int = 64,
) -> Evaluation:
    """Have every case answer every question, greedily.

    Args:
        data: see `read_questions`.
        subjects: what is asked, see `plan.subjects`.
        metric: of `METRICS`.
        answers: the file that keeps the answers, see `Journal`.
        engine: of `ENGINES`.
        resume: continue with ``answers``.
        on_broken: what happens at a line, picture, clip or question that is refused: the run
            ends, or it is left out and reported.
        max_new_tokens: limit of an answer.

    Raises:
        PocketVLMError: something was refused and ``on_broken`` is ``"stop"``, no question is left,
            or see `Journal`. What was answered until then is kept.
    """
    max_new_tokens = whole(max_new_tokens, "max_new_tokens", least=1)
    questions, broken = askable(data, metric)
    if on_broken == "stop" and broken:
        raise refusal(data, min(broken, key=lambda item: item.line))
    refused: dict[int, Broken] = {}
    # All subjects read pictures and clips alike.
    first = subjects[0]
    head = conditions(data, first.cases[0], max_new_tokens, shares_prefill=first.shares_prefill)
    with Journal(answers, head, resume=resume) as journal:
        check_same(data, questions, journal)
        for item in _ask(journal, subjects, questions, engine, max_new_tokens):
            if on_broken == "stop":
                raise refusal(data, item)
            refused.setdefault(item.line, item)
        counted = [question for question in questions if question.line not in refused]
        if not counted:
            raise refusal(data, next(iter(refused.values())))
        answered = [
            Answered(
                subject,
                case,
                [journal.replies[subject.key(question.line, case)] for question in counted],
            )
            for subject in subjects
            for case in subject.cases
        ]
    skipped = sorted([*broken, *refused.values()], key=lambda item: item.line)
    return Evaluation(data, counted, skipped, answered, metric)


def _ask(
    journal: Journal,
    subjects: Sequence[Subject],
    questions: Sequence[Question],
    engine: Engine,
    max_new_tokens: int,
) -> Iterator[Broken]:
    """Ask what the journal has no answer to, and write the replies down; yields what is refused."""
    left = [
        task
        for subject in subjects
        for task in tasks(subject, questions, journal.replies, max_new_tokens)
    ]
    total = len(questions) * sum(len(subject.cases) for subject in subjects)
    done = total - sum(task.answers for task in left)
    with counter(total=total, initial=done, desc="answering", unit="answer", smoothing=0.05) as bar:
        for replies in answer_all(journal, engine, left):
            bar.update(len(replies))
            yield from (
                Broken(reply.line, reply.error) for reply in replies if reply.error is not None
            )


def answer_all(journal: Journal, engine: Engine, tasks: Iterable[Task]) -> Iterator[list[Reply]]:
    """Have tasks answered and the replies written down; yields those of each task, as they come."""
    for task, replies in _whole(engine.answered(tasks)):
        journal.add(task.subject, replies)
        yield replies


def conditions(
    data: QuestionSet, case: Case, max_new_tokens: int, *, shares_prefill: bool = False
) -> dict[str, Any]:
    """What answers depend on beside artifact, budget, engine and precisions; of a set that cases
    with the caps of ``case`` are asked."""
    shared = {"shares_prefill": True} if shares_prefill else {}
    return shared | {
        "data_sha256": data.sha256,
        "max_new_tokens": max_new_tokens,
        "max_pixels": case.max_pixels,
        "max_tiles": case.max_tiles,
    }


def check_same(data: QuestionSet, questions: Sequence[Question], journal: Journal) -> None:
    """Refuse answers about a picture or clip that is another by now: its path alone does not tell.
    One that is gone does no harm to what was answered."""
    answered = {reply.line: reply.media for reply in journal.replies.values() if reply.media}
    for question in questions:
        then = answered.get(question.line)
        now = fingerprint(question.media) if then else ""
        if now and now != then:
            raise RequestError(
                f"{data.path} line {question.line}: what it is about has changed since "
                f"{journal.path} was answered",
                advice="name another file with --answers",
                setting="answers",
            )


def _whole(answered: Iterable[tuple[Task, list[Reply]]]) -> Iterator[tuple[Task, list[Reply]]]:
    """As given; an engine that loses a question is a bug, and must not look like a result."""
    for task, replies in answered:
        if len(replies) != task.answers:
            raise RuntimeError(f"{len(replies)} answers came, expected {task.answers}")
        yield task, replies


def askable(data: QuestionSet, metric: Metric) -> tuple[list[Question], list[Broken]]:
    """The questions that the metric can score, and everything else."""
    reasons = {question.line: metric.refusal(question.answers) for question in data.questions}
    wrong = [Broken(line, reason) for line, reason in reasons.items() if reason is not None]
    questions = [question for question in data.questions if reasons[question.line] is None]
    if not questions:
        raise refusal(data, wrong[0])
    return questions, [*data.broken, *wrong]


def refusal(data: QuestionSet, item: Broken) -> RequestError:
    """Of a line that cannot be asked."""
    return RequestError(
        f"{data.path} line {item.line}: {item.reason}",
        advice="correct the line, or leave such lines out with --broken skip",
    )
