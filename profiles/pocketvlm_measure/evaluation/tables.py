"""Knows a summary as tables for people."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pocketvlm_measure.evaluation.public.published import Published
from pocketvlm_measure.evaluation.statistics import Difference, Estimate
from pocketvlm_measure.evaluation.summary import Score, Summary
from pocketvlm_measure.table import Table, compact, count

_MOST_LINES = 5  # skipped lines that are named
_PARTS = ("artifact", "decoder", "its precision", "vision")


def headline(summary: Summary) -> str:
    """What was measured, in a line."""
    evaluation = summary.evaluation
    names = dict(zip(_PARTS, _names(summary.scores[0]), strict=True))
    same = ", ".join(f"{part} {names[part]}" for part in _PARTS if part not in _varying(summary))
    return (
        f"{evaluation.data.path.name}: {count(len(evaluation.questions), 'question')} about "
        f"{_media(summary)}, {evaluation.metric.name} in per cent with 95 % intervals over "
        f"{_kinds(summary)}" + (f"; {same}" if same else "")
    )


def _media(summary: Summary) -> str:
    """How many pictures and clips the questions are about."""
    pictures, clips = count(summary.pictures, "picture"), count(summary.clips, "clip")
    if not summary.clips:
        return pictures
    return f"{pictures} and {clips}" if summary.pictures else clips


def _kinds(summary: Summary) -> str:
    """What questions that fail together share."""
    if not summary.clips:
        return "pictures"
    return "pictures and clips" if summary.pictures else "clips"


def tables(summary: Summary) -> list[Table]:
    """The cases; then each tag, where there are several; then what papers report, where asked."""
    parts = [_cases(summary)]
    if len(summary.scores[0].tags) > 1:
        parts.append(_tags(summary))
    if summary.published is not None:
        parts.append(_beside(summary, summary.published))
    return parts


def notes(summary: Summary) -> Iterator[str]:
    """What belongs under the tables."""
    if any(score.baseline for score in summary.scores):
        yield (
            "p is McNemar's exact test on the questions that only one of the two answers rightly; "
            "it assumes that questions are independent, the intervals assume it of "
            f"{_kinds(summary)}"
        )

    for score in summary.scores:
        if score.answered_by:
            name, total = case_name(summary, score), len(score.answered.replies)
            parts = [
                f"{'its guide' if who == 'guide' else 'the model'} {number} "
                f"({percent(next(iter(figures.values())))} %)"
                for who, (number, figures) in sorted(score.answered_by.items())
            ]
            yield f"{name}: of {total} questions were answered by {' and by '.join(parts)}"


def warnings(summary: Summary) -> Iterator[str]:
    """What was left out."""
    if skipped := summary.evaluation.skipped:
        named = "; ".join(f"line {item.line}: {item.reason}" for item in skipped[:_MOST_LINES])
        more = (
            f"; and {len(skipped) - _MOST_LINES} more, see --json"
            if len(skipped) > _MOST_LINES
            else ""
        )
        yield f"{count(len(skipped), 'line')} left out of every case: {named}{more}"


def percent(figure: Estimate) -> str:
    """A figure with its interval, in per cent."""
    if math.isnan(figure.value):
        return "?"
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def points(difference: Difference) -> str:
    """A difference with its interval, in percentage points."""
    less = difference.estimate
    return f"{100 * less.value:+.1f} [{100 * less.low:+.1f}, {100 * less.high:+.1f}]"


def chance(p: float) -> str:
    """A p value for people."""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def case_name(summary: Summary, score: Score) -> str:
    """The parts in which a case differs from the others."""
    return f"{score.answered.case.budget} tokens {family_name(summary, score)}".strip()


def family_name(summary: Summary, score: Score) -> str:
    """As `case_name`, without its budget."""
    varying = _varying(summary)
    return " ".join(
        name for part, name in zip(_PARTS, _names(score), strict=True) if part in varying
    )


def _cases(summary: Summary) -> Table:
    metric, varying = summary.evaluation.metric, _varying(summary)
    head = ["tokens", *varying, *metric.figures, "difference", "p", "ttft ms"]
    body = []
    for score in summary.scores:
        cells = [str(score.answered.case.budget)]
        cells += [name for part, name in zip(_PARTS, _names(score), strict=True) if part in varying]
        cells += [percent(score.figures[figure]) for figure in metric.figures]
        cells += (
            ["", ""]
            if score.baseline is None
            else [points(score.baseline[1]), chance(score.baseline[1].p)]
        )
        body.append([*cells, compact(score.ttft_ms.median)])
    against = dict.fromkeys(
        case_name(summary, _of(summary, score)) for score in summary.scores if score.baseline
    )
    title = f"{metric.figures[0].capitalize()}"
    title += f", the difference being from {' or '.join(against)}" if 0 < len(against) <= 2 else ""
    return Table(f"{title}; time to first token, median:", head, body)


def _of(summary: Summary, score: Score) -> Score:
    """The baseline's own score."""
    assert score.baseline is not None
    return next(other for other in summary.scores if other.answered is score.baseline[0])


def _tags(summary: Summary) -> Table:
    figure = summary.evaluation.metric.figures[0]
    head = ["tag", "questions", *(case_name(summary, score) for score in summary.scores)]
    body = [
        [tag, str(questions), *(percent(score.tags[tag][1][figure]) for score in summary.scores)]
        for tag, (questions, _) in summary.scores[0].tags.items()
    ]
    return Table(f"{figure.capitalize()} by tag:", head, body)


def _beside(summary: Summary, published: Published) -> Table:
    head = ["tokens", "here", *published.columns]
    body = []
    for score in summary.scores:
        here = score.mean_over_tags if published.mean_over_tags else score.headline.value
        tokens = score.answered.case.budget
        theirs = [
            f"{column[tokens]:.2f}" if tokens in column else ""
            for column in published.columns.values()
        ]
        body.append([case_name(summary, score), f"{100 * here:.2f}", *theirs])
    mean = ", the mean over tags" if published.mean_over_tags else ""
    remark = f"; {published.remark}" if published.remark else ""
    return Table(
        f"Beside what papers report for LLaVA-1.5-7B{mean}, in per cent{remark}:", head, body
    )


def _varying(summary: Summary) -> list[str]:
    columns = zip(*(_names(score) for score in summary.scores), strict=True)
    return [part for part, column in zip(_PARTS, columns, strict=True) if len(set(column)) > 1]


def _names(score: Score) -> tuple[str, str, str, str]:
    case = score.answered.case
    return (
        score.answered.subject.name,
        case.decoder,
        case.decoder_precision,
        case.vision_precision,
    )
