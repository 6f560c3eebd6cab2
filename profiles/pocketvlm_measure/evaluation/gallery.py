"""Knows which answers pruning changed, and draws the patches that were kept before and after."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pocketvlm.artifact import Artifact
from pocketvlm.errors import PocketVLMError
from pocketvlm.layouts import Medium, media_read
from pocketvlm.vision.overlay import draw_budgets, open_encoders
from pocketvlm_measure.evaluation.media import source_of
from pocketvlm_measure.evaluation.questions import Question
from pocketvlm_measure.evaluation.run import Answered, Evaluation
from pocketvlm_measure.progress import progress
from pocketvlm_measure.reports.page import jpeg_uri

MOST_CHANGES = 16


@dataclass(frozen=True)
class Change:
    """A question whose answer is another with fewer tokens.

    Attributes:
        question: as it was asked.
        before: (tokens, answer) of the fewest tokens at which it was still that of most tokens.
        after: (tokens, answer) of the next fewer.
        was_right, is_right: whether the metric counts each answer as right.
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
class Drawing:
    """A change with the patches kept before and after it: data URIs, one per picture or clip in
    order."""

    change: Change
    before: Sequence[str]
    after: Sequence[str]


def changes(evaluation: Evaluation) -> list[Change]:
    """Every change of the first family: what became wrong first, then what became right; at most
    `MOST_CHANGES`."""
    subject = evaluation.answered[0].subject
    family = [answered for answered in evaluation.answered if answered.subject == subject]
    family.sort(key=lambda answered: -answered.case.budget)
    changed = [
        change
        for row in range(len(evaluation.questions))
        if (change := _change(evaluation, family, row)) is not None
    ]
    changed.sort(key=lambda change: (change.was_right == change.is_right, not change.was_right))
    return changed[:MOST_CHANGES]


def drawings(evaluation: Evaluation) -> Iterator[Drawing]:
    """The changes, drawn; one whose picture or clip cannot be drawn, or that has none, is left
    out."""
    changed = changes(evaluation)
    if not changed:
        return
    first = evaluation.answered[0]
    artifact = first.case.of(Artifact.open(first.subject.folder))
    pairs = [(change.before[0], change.after[0]) for change in changed]
    budgets = sorted({tokens for pair in pairs for tokens in pair})
    parts = {medium: artifact.reading(medium) for medium in media_read(artifact.manifest)}
    encoders = {
        medium: open_encoders(part, budgets, first.case.vision_precision)
        for medium, part in parts.items()
    }
    bar = progress(
        zip(changed, pairs, strict=True), desc="drawing", total=len(changed), leave=False
    )
    for change, pair in bar:
        try:
            question = change.question
            media: list[tuple[Medium, str]] = [("image", image) for image in question.images]
            media += [("video", video) for video in question.videos]
            numbers = Counter(medium for medium, _ in media)
            drawn = [
                draw_budgets(
                    parts[medium],
                    source_of(reference, medium),
                    pair,
                    encoders[medium],
                    numbers[medium],
                    question.text,
                )
                for medium, reference in media
            ]
        except PocketVLMError:
            continue
        if drawn:
            before, after = (
                [jpeg_uri(by_budget[tokens][0]) for by_budget in drawn] for tokens in pair
            )
            yield Drawing(change, before, after)


def _change(evaluation: Evaluation, family: Sequence[Answered], row: int) -> Change | None:
    """Where the answer to one question first becomes another as tokens become fewer; None where it
    never does."""
    metric, question = evaluation.metric, evaluation.questions[row]
    whole = family[0].replies[row].text
    for before, after in itertools.pairwise(family):
        text = after.replies[row].text
        if text != whole:
            right = [
                metric.is_right(metric.parts(answer, question.answers)) for answer in (whole, text)
            ]
            return Change(
                question, (before.case.budget, whole), (after.case.budget, text), right[0], right[1]
            )
    return None
