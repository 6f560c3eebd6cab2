"""Knows the tables of pruning methods: exact match by share of tokens kept, beside FasterVLM at the
same share."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from demo_tables.artifacts import BUDGETS, FASTV, FASTV_LAYER, export_fastv, export_method, methods
from demo_tables.asking import cases_of
from pocketvlm_export.pruning import find_pruner
from pocketvlm_measure.evaluation.engines import ENGINES
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.questions import QuestionSet
from pocketvlm_measure.evaluation.run import Answered, Evaluation, evaluate
from pocketvlm_measure.evaluation.summary import Score, Summary, summarise
from pocketvlm_measure.evaluation.tables import chance, percent

_OURS = "fastervlm"
_FEW = 14  # tokens at which methods differ most between kinds of question


def measure(build: Path, data: QuestionSet, workers: int) -> Summary:
    """Every method at every budget, FasterVLM first, and FastV where it drops any."""
    subjects = []
    for name, options in methods():
        subjects += cases_of(export_method(build, name, options), workers, budgets=BUDGETS)
    for keep in BUDGETS[1:]:
        subjects += cases_of(export_fastv(build, keep), workers, budgets=BUDGETS[:1])
    evaluation = evaluate(
        data,
        subjects,
        METRICS["exact"],
        build / "methods.jsonl",
        ENGINES["local"](workers),
        resume=True,
    )
    return summarise(evaluation, lambda answered: answers_of_ours(evaluation, answered))


def answers_of_ours(evaluation: Evaluation, answered: Answered) -> Answered:
    """The answers of our method at as many visual tokens."""
    return next(
        a for a in evaluation.answered if method_of(a) == _OURS and kept(a) == kept(answered)
    )


def method_of(answered: Answered) -> str:
    """The method's name; draws of one share it."""
    folder = Path(answered.subject.folder).name
    return folder if folder in dict(methods()) else folder.rpartition("-")[0]


def kept(answered: Answered) -> int:
    """Visual tokens per picture that reach the end of the decoder."""
    if method_of(answered) == FASTV:
        return int(answered.subject.folder.rpartition("-")[2])  # as `export_fastv` names it
    return answered.case.budget


def title(method: str) -> str:
    """For people."""
    return f"FastV from layer {FASTV_LAYER} of 4" if method == FASTV else find_pruner(method).title


def _cells(summary: Summary) -> dict[str, dict[int, list[Score]]]:
    """{method: {budget: scores, one per draw}}."""
    cells: dict[str, dict[int, list[Score]]] = {}
    for score in summary.scores:
        by_budget = cells.setdefault(method_of(score.answered), {})
        by_budget.setdefault(kept(score.answered), []).append(score)
    return cells


def table(summary: Summary) -> str:
    """Markdown: a row per method, a column per budget."""
    questions, patches = len(summary.evaluation.questions), max(BUDGETS)
    shares = [f"{budget / patches:.0%} ({budget})" for budget in BUDGETS]
    lines = [
        f"Exact match in per cent on {questions} held-out questions by the share of visual tokens "
        "kept; FasterVLM with 95 % intervals, the others with p of McNemar's exact test against "
        "FasterVLM at the same share (of several draws the mean, and the largest p):",
        "",
        f"| method | {' | '.join(shares)} |",
        f"|---|{'---|' * len(BUDGETS)}",
    ]
    for name, by_budget in _cells(summary).items():
        cells = [_cell(by_budget[budget]) if budget in by_budget else "" for budget in BUDGETS]
        lines.append(f"| {title(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(scores: list[Score]) -> str:
    if scores[0].baseline is None:
        return percent(scores[0].headline)
    mean = 100 * fmean(score.headline.value for score in scores)
    return f"{mean:.1f} ({chance(max(score.baseline[1].p for score in scores if score.baseline))})"


def kinds_table(summary: Summary) -> str:
    """Markdown: kinds of question, for FasterVLM at every budget and for the others at `_FEW`."""
    cells = _cells(summary)
    kinds = list(summary.scores[0].tags)
    lines = ["The same by kind of question:", "", f"| method | kept | {' | '.join(kinds)} |"]
    lines += [f"|---|---|{'---|' * len(kinds)}"]
    for name, by_budget in cells.items():
        for budget in BUDGETS if name == _OURS else (_FEW,):
            means = [
                fmean(100 * _accuracy(score, kind) for score in by_budget[budget]) for kind in kinds
            ]
            lines.append(
                f"| {title(name)} | {budget} | {' | '.join(f'{mean:.1f}' for mean in means)} |"
            )
    return "\n".join(lines)


def _accuracy(score: Score, kind: str) -> float:
    return score.tags[kind][1]["accuracy"].value


def figures(summary: Summary) -> dict[str, Any]:
    """{method: {budget: per cent, one per draw}}."""
    return {
        name: {
            budget: [round(100 * score.headline.value, 2) for score in scores]
            for budget, scores in by_budget.items()
        }
        for name, by_budget in _cells(summary).items()
    }
