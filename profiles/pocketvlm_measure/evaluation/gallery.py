"""Knows which answers pruning changed, and shows what was still seen when it did."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pocketvlm.artifact import Artifact
from pocketvlm.errors import PocketVLMError
from pocketvlm.vision.overlay import draw_budgets, open_encoders
from pocketvlm_measure.evaluation.questions import Question, picture_of
from pocketvlm_measure.evaluation.run import Answered, Evaluation
from pocketvlm_measure.reports.page import jpeg_uri

SHOWN = 16  # changed answers


@dataclass(frozen=True)
class Change:
    """A question whose answer is another with fewer tokens.

    Attributes:
        question: as it was asked.
        before: (tokens, answer) of the fewest tokens at which it was still the one of most tokens.
        after: (tokens, answer) of the next fewer.
        was_right, is_right: as the metric has it.
    """

    question: Question
    before: tuple[int, str]
    after: tuple[int, str]
    was_right: bool
    is_right: bool

    @property
    def verdict(self) -> str:
        """For people."""
        words = {True: "right", False: "wrong"}
        return f"{words[self.was_right]}, then {words[self.is_right]}"


@dataclass(frozen=True)
class Shown:
    """A change with drawings of what is kept before and after it, as addresses; several pictures in
    their order."""

    change: Change
    before: Sequence[str]
    after: Sequence[str]


def changes(evaluation: Evaluation) -> list[Change]:
    """Every change of the first family, what became wrong first, then what became right; at most
    `SHOWN`."""
    subject = evaluation.answered[0].subject
    family = [answered for answered in evaluation.answered if answered.subject == subject]
    family.sort(key=lambda answered: -answered.case.budget)
    found = [
        change
        for row in range(len(evaluation.questions))
        if (change := _change(evaluation, family, row)) is not None
    ]
    found.sort(key=lambda change: (change.was_right == change.is_right, not change.was_right))
    return found[:SHOWN]


def shown(evaluation: Evaluation) -> Iterator[Shown]:
    """The changes, drawn; one whose picture cannot be drawn, or that has none, is left out."""
    found = changes(evaluation)
    if not found:
        return
    first = evaluation.answered[0]
    artifact = Artifact.open(first.subject.folder)
    budgets = sorted({tokens for change in found for tokens in (change.before[0], change.after[0])})
    encoders = open_encoders(artifact, budgets, first.case.vision_precision)
    for change in found:
        wanted = [change.before[0], change.after[0]]
        try:
            drawn = [
                draw_budgets(artifact, picture_of(i), wanted, encoders)
                for i in change.question.images
            ]
        except PocketVLMError:
            continue
        if drawn:
            before, after = (
                [jpeg_uri(by_budget[tokens][0]) for by_budget in drawn] for tokens in wanted
            )
            yield Shown(change, before, after)


def _change(evaluation: Evaluation, family: Sequence[Answered], row: int) -> Change | None:
    """Where the answer to one question first becomes another as tokens become fewer; None where it
    never does."""
    metric, question = evaluation.metric, evaluation.questions[row]
    whole = family[0].replies[row].text
    for before, after in itertools.pairwise(family):
        text = after.replies[row].text
        if text != whole:
            right = [
                metric.is_right(metric.parts(said, question.answers)) for said in (whole, text)
            ]
            return Change(
                question, (before.case.budget, whole), (after.case.budget, text), right[0], right[1]
            )
    return None
