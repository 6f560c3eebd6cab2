"""Knows a tuning as one web page that needs nothing else: the frontier, what was chosen, what was
ruled out and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from pocketvlm_measure.reports.page import render, svg_uri
from pocketvlm_measure.table import Table, compact, count
from pocketvlm_measure.tune import plots, words
from pocketvlm_measure.tune.tuning import VERDICTS, Evidence, Tuning

_HEAD = (
    "candidate",
    "verdict",
    "questions",
    "{figure}, %",
    "points against {baseline}",
    "first token, ms",
    "of {baseline}",
    "peak, MB",
    "questions needed",
)


def to_html(tuning: Tuning, model: str, machine: str, notes: Sequence[str] = ()) -> str:
    """The page.

    Args:
        tuning: what was measured.
        model: what was tuned, as it was named.
        machine: a line about what was measured on.
        notes: what else to know, a sentence each.
    """
    title = f"{tuning.figure.capitalize()} against time to first token"
    return render(
        __package__,
        "report.html.jinja",
        model=model,
        headline=headline(tuning),
        warnings=list(_warnings(tuning)),
        plots=[(title, svg_uri(plots.frontier(tuning)))] if plots.drawn(tuning) else [],
        tables=[_candidates(tuning), _reasons(tuning), _meanings(tuning)],
        notes=[*notes, *tuning.notes, _counted(tuning), machine],
    )


def headline(tuning: Tuning) -> str:
    """What was chosen, in a line."""
    asked = words.limits(tuning)
    if tuning.chosen is None:
        if tuning.time_up and all(one.difference is None for one in tuning.evidence):
            return f"No choice was made: the time was up before. Asked for: {asked}."
        return f"Nothing that was tried satisfies the limits: {asked}."
    chosen = tuning.chosen
    return (
        f"Chosen: {chosen.candidate} ({chosen.verdict}); {words.kept(chosen, tuning)}; "
        f"{words.time(chosen, tuning)}; {words.memory(chosen)}. Asked for: {asked}."
    )


def _warnings(tuning: Tuning) -> Iterator[str]:
    if tuning.time_up:
        yield "the time was up before everything was decided"
    chosen, shown = tuning.chosen, tuning.shown
    if chosen is not None and shown is not chosen:
        instead = "nothing else is" if shown is None else f"{shown.candidate} is"
        yield f"the questions do not show that the choice keeps to the limit; {instead}"
    if needed := [one.needed for one in tuning.undecided if one.needed is not None]:
        yield (
            f"the questions do not decide {count(len(tuning.undecided), 'candidate')}; about "
            f"{max(needed)} questions like these would"
        )


def _all(tuning: Tuning) -> list[Evidence]:
    return [tuning.baseline, *tuning.evidence]


def _candidates(tuning: Tuning) -> Table:
    baseline = "the baseline" if tuning.pruned else "unpruned"
    head = [column.format(figure=tuning.figure, baseline=baseline) for column in _HEAD]
    rows = [
        [
            f"{'★ ' if one is tuning.chosen else ''}{one.candidate}",
            one.verdict,
            str(one.questions),
            "" if one.accuracy is None else words.share(one.accuracy),
            "" if one.difference is None else words.interval(one.difference),
            f"{compact(median(one.ttft_ms))}" if one.ttft_ms else "",
            "" if one.ratio is None else f"{one.ratio:.2f}",
            f"{max(one.peak_bytes) / 1e6:.0f}" if one.peak_bytes else "",
            "" if one.needed is None else str(one.needed),
        ]
        for one in _all(tuning)
    ]
    return Table("Every candidate, the fastest first; the star is the choice:", head, rows)


def _reasons(tuning: Tuning) -> Table:
    rows = [[str(one.candidate), one.verdict, one.reason] for one in _all(tuning)]
    return Table("Why:", ["candidate", "verdict", "reason"], rows)


def _meanings(tuning: Tuning) -> Table:
    given = dict.fromkeys(one.verdict for one in _all(tuning))
    rows = [[verdict, VERDICTS[verdict]] for verdict in given]
    return Table("What the verdicts mean:", ["verdict", "meaning"], rows)


def _counted(tuning: Tuning) -> str:
    return (
        f"{tuning.answers} answers to {count(tuning.questions, 'question')} about "
        f"{count(tuning.pictures, 'picture')} in {tuning.seconds:.0f} s; intervals of differences "
        f"miss with a chance of at most {100 * tuning.error_each:.2g} % at each end, those of "
        "shares are of 95 % over pictures"
    )
