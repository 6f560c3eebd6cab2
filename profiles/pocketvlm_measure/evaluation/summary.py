"""Knows the figures of an evaluation: with intervals for every case and tag, and differences from a
baseline."""

from __future__ import annotations

import dataclasses
import statistics as plain_statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm_measure.evaluation.public.published import Published
from pocketvlm_measure.evaluation.run import Answered, Evaluation
from pocketvlm_measure.evaluation.statistics import (
    CONFIDENCE,
    DRAWS,
    Difference,
    Estimate,
    difference,
    estimate,
    numbered,
)
from pocketvlm_measure.progress import progress
from pocketvlm_measure.spread import Spread

Baseline = Callable[[Answered], Answered | None]
Figures = Mapping[str, Estimate]


@dataclass(frozen=True)
class Score:
    """One case.

    Attributes:
        answered: the case and its replies.
        figures: of all questions, by the metric's names.
        tags: of the questions of each tag, with how many they are.
        baseline: what it is compared with, and the difference; None for the baseline itself.
        ttft_ms: to the first token, as if each question were the first about its picture or
            clip; of the first ones alone where prefills are shared.
        answered_by: of the questions that the guide answered, and of those that the model did, as
            ``tags``; empty where there is no guide.
    """

    answered: Answered
    figures: Figures
    tags: Mapping[str, tuple[int, Figures]]
    baseline: tuple[Answered, Difference] | None
    ttft_ms: Spread
    answered_by: Mapping[str, tuple[int, Figures]] = field(default_factory=dict)

    @property
    def headline(self) -> Estimate:
        """The metric's first figure."""
        return next(iter(self.figures.values()))

    @property
    def mean_over_tags(self) -> float:
        """The mean of the headline figure over tags, with equal weights; over all questions where
        there is no tag."""
        values = [next(iter(figures.values())).value for _, figures in self.tags.values()]
        return plain_statistics.fmean(values) if values else self.headline.value


@dataclass(frozen=True)
class Summary:
    """An evaluation, scored.

    Attributes:
        evaluation: what was answered.
        scores: of each case, in its order.
        published: what papers report, to put beside; None for nothing.
    """

    evaluation: Evaluation
    scores: Sequence[Score]
    published: Published | None = None

    @property
    def pictures(self) -> int:
        """How many different pictures there are; several of one question count as one."""
        questions = self.evaluation.questions
        return len({q.images for q in questions if q.images or not q.videos})

    @property
    def clips(self) -> int:
        """How many different clips there are, likewise."""
        return len({q.videos for q in self.evaluation.questions if q.videos})


def summarise(
    evaluation: Evaluation,
    baseline: Baseline | None = None,
    published: Published | None = None,
) -> Summary:
    """Score every case, and compare it with its ``baseline``, by default `most_tokens`; see
    `Summary`."""
    metric, questions = evaluation.metric, evaluation.questions
    # A question without a picture or clip shares none.
    pictures = numbered([question.media or question.line for question in questions])
    by_tag: dict[str, list[int]] = {}
    for row, question in enumerate(questions):
        for tag in dict.fromkeys(question.tags):
            by_tag.setdefault(tag, []).append(row)
    parts = {
        id(answered): np.array(
            [
                metric.parts(reply.text, q.answers)
                for q, reply in zip(questions, answered.replies, strict=True)
            ],
            dtype=np.float64,
        )
        for answered in evaluation.answered
    }

    def figures(rows: npt.NDArray[np.float64], of: npt.NDArray[np.int64]) -> Figures:
        return dict(zip(metric.figures, estimate(rows, of, metric.combine), strict=True))

    def score(answered: Answered) -> Score:
        ours = parts[id(answered)]
        against = (baseline or most_tokens(evaluation))(answered)
        by: dict[str, list[int]] = {}
        for row, reply in enumerate(answered.replies):
            if reply.answered_by is not None:
                by.setdefault(reply.answered_by, []).append(row)
        compared = None
        if against is not None and against is not answered:
            compared = (
                against,
                difference(ours, parts[id(against)], pictures, metric.combine, metric.is_right),
            )
        return Score(
            answered,
            figures(ours, pictures),
            {tag: (len(rows), figures(ours[rows], pictures[rows])) for tag, rows in by_tag.items()},
            compared,
            Spread(_first_tokens(answered) or [np.nan]),
            {who: (len(rows), figures(ours[rows], pictures[rows])) for who, rows in by.items()},
        )

    scores = [
        score(answered) for answered in progress(evaluation.answered, desc="scoring", leave=False)
    ]
    return Summary(evaluation, scores, published)


def most_tokens(evaluation: Evaluation) -> Baseline:
    """The case of the most visual tokens that differs in nothing else."""
    return lambda answered: max(_family(evaluation, answered), key=lambda other: other.case.budget)


def budget(evaluation: Evaluation, tokens: int) -> Baseline:
    """The case of ``tokens`` visual tokens that differs in nothing else."""
    return lambda answered: next(
        (a for a in _family(evaluation, answered) if a.case.budget == tokens), None
    )


def to_dict(summary: Summary) -> dict[str, Any]:
    """What ``--json`` prints, apart from the machine."""
    data = summary.evaluation.data
    return {
        "data": str(data.path),
        "data_sha256": data.sha256,
        "questions": len(summary.evaluation.questions),
        "pictures": summary.pictures,
        "clips": summary.clips,
        "skipped": [dataclasses.asdict(item) for item in summary.evaluation.skipped],
        "metric": summary.evaluation.metric.name,
        "confidence": CONFIDENCE,
        "bootstrap_draws": DRAWS,
        "published": None if summary.published is None else dataclasses.asdict(summary.published),
        "results": [_result(score) for score in summary.scores],
    }


def _result(score: Score) -> dict[str, Any]:
    return {
        **_names(score.answered),
        "figures": _figures(score.figures),
        "mean_over_tags": score.mean_over_tags,
        "tags": {
            tag: {"questions": count, **_figures(figures)}
            for tag, (count, figures) in score.tags.items()
        },
        "baseline": None
        if score.baseline is None
        else _names(score.baseline[0]) | _difference(score.baseline[1]),
        "ttft_ms": {
            "median": _or_none(score.ttft_ms.median),
            "p95": _or_none(score.ttft_ms.p95),
        },
        **_by_whom(score),
    }


def _by_whom(score: Score) -> dict[str, Any]:
    """The guide, and who answered how many questions; nothing where there is none."""
    guide = score.answered.subject.guide
    if guide is None:
        return {}
    return {
        "guide": {"folder": guide.folder, "confidence": guide.confidence},
        "answered_by": {
            who: {"questions": count, **_figures(figures)}
            for who, (count, figures) in score.answered_by.items()
        },
    }


def _names(answered: Answered) -> dict[str, Any]:
    case = dataclasses.asdict(answered.case)
    return {"folder": answered.subject.folder, "artifact_id": answered.subject.artifact_id, **case}


def _figures(figures: Figures) -> dict[str, Any]:
    return {name: _estimate(figure) for name, figure in figures.items()}


def _difference(difference: Difference) -> dict[str, Any]:
    return dataclasses.asdict(difference) | {"estimate": _estimate(difference.estimate)}


def _estimate(figure: Estimate) -> dict[str, float | None]:
    return {name: _or_none(value) for name, value in dataclasses.asdict(figure).items()}


def _or_none(value: float) -> float | None:
    """As JSON, which has no NaN."""
    return None if np.isnan(value) else value


def _first_tokens(answered: Answered) -> list[float]:
    """Times of all replies that have one: none has, if every question that others shared the
    prefill of was left out."""
    return [reply.ttft_ms for reply in answered.replies if reply.ttft_ms is not None]


def _family(evaluation: Evaluation, answered: Answered) -> list[Answered]:
    return [other for other in evaluation.answered if other.subject == answered.subject]
