"""Knows how accurate settings of the demo are: their artifacts, the questions, and the figures with
intervals. What exists is not made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from demo_questions.__main__ import write_set
from demo_tables.asking import cases_of
from frontier.processes import in_processes
from frontier.settings import Setting
from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.errors import PocketVLMError
from pocketvlm.files import replace_file
from pocketvlm_export import export
from pocketvlm_export.pruning import find_pruner
from pocketvlm_measure.evaluation.engines import ENGINES
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.questions import QuestionSet, read_questions
from pocketvlm_measure.evaluation.run import Answered, Evaluation, evaluate
from pocketvlm_measure.evaluation.statistics import Difference, Estimate
from pocketvlm_measure.evaluation.summary import summarise
from pocketvlm_measure.progress import counter

MODEL = "demo"


@dataclass(frozen=True)
class Accuracy:
    """How many questions per setting answers rightly at a budget.

    Attributes:
        setting, budget: what was asked.
        exact: exact match with its interval, 0 to 1.
        change: from the same method at the same budget without stages and at the checkpoint's own
            size of pictures, paired; None for that itself.
    """

    setting: Setting
    budget: int
    exact: Estimate
    change: Difference | None


def questions(build: Path, split: str, count: int) -> QuestionSet:
    """The first ``count`` questions of a split of the demo's; splits share no picture."""
    folder = build / f"{split}-{count}"
    path = folder / "questions.jsonl"
    return read_questions(path if path.exists() else write_set(folder, split, count))


def export_all(
    build: Path, wanted: Sequence[tuple[Setting, Sequence[int]]], workers: int
) -> dict[Setting, str]:
    """Export the demo for each setting at its budgets; returns why some could not be.

    A reason is kept in a file beside the artifacts: delete it to try again.
    """
    left = [
        (setting, budgets)
        for setting, budgets in wanted
        if not (folder_of(build, setting) / MANIFEST_NAME).exists()
        and not _refusal(build, setting).exists()
    ]
    with counter(total=len(left), desc="exporting", unit="artifact") as bar:
        calls = [partial(export_one, build, *one) for one in left]
        for _ in in_processes(calls, workers):
            bar.update()
    return {
        setting: _refusal(build, setting).read_text().strip()
        for setting, _ in wanted
        if _refusal(build, setting).exists()
    }


def export_one(build: Path, setting: Setting, budgets: Sequence[int]) -> None:
    """Export the demo, gate included, or write down what refuses it."""
    graphs = budgets[:1] if find_pruner(setting.pruner).nested else budgets
    try:
        export(MODEL, folder_of(build, setting), setting.export_options(graphs))
    except PocketVLMError as error:
        build.mkdir(parents=True, exist_ok=True)
        replace_file(_refusal(build, setting), f"{error}\n".encode())


def folder_of(build: Path, setting: Setting) -> Path:
    """Where the artifact of a setting lies."""
    return build / "artifacts" / setting.name


def _refusal(build: Path, setting: Setting) -> Path:
    return build / f"{setting.name}.refused"


def measure(
    build: Path,
    data: QuestionSet,
    wanted: Sequence[tuple[Setting, Sequence[int]]],
    workers: int,
) -> list[Accuracy]:
    """Ask every setting that could be exported the questions, at each of its budgets."""
    refused = export_all(build, wanted, workers)
    subjects, settings = [], {}
    for setting, budgets in wanted:
        if setting not in refused:
            folder = folder_of(build, setting)
            settings[str(folder.resolve())] = setting
            subjects += cases_of(folder, workers, budgets=budgets)
    if not subjects:
        return []
    answers = data.path.with_name("answers.jsonl")
    evaluation = evaluate(
        data, subjects, METRICS["exact"], answers, ENGINES["local"](workers), resume=True
    )
    summary = summarise(evaluation, lambda one: _whole(evaluation, settings, one))
    return [
        Accuracy(
            settings[score.answered.subject.folder],
            score.answered.case.budget,
            score.headline,
            score.baseline[1] if score.baseline else None,
        )
        for score in summary.scores
    ]


def _whole(
    evaluation: Evaluation, settings: dict[str, Setting], answered: Answered
) -> Answered | None:
    """The same method at the same budget without stages, where it was asked too."""
    whole = settings[answered.subject.folder].whole
    return next(
        (
            other
            for other in evaluation.answered
            if settings[other.subject.folder] == whole and other.case.budget == answered.case.budget
        ),
        None,
    )


def means(results: Sequence[Accuracy], budgets: Sequence[int]) -> dict[Setting, float]:
    """Of each setting the mean over ``budgets``; those that have not all of them are left out."""
    by_setting: dict[Setting, dict[int, float]] = {}
    for result in results:
        by_setting.setdefault(result.setting, {})[result.budget] = result.exact.value
    return {
        setting: fmean(by_budget[budget] for budget in budgets)
        for setting, by_budget in by_setting.items()
        if set(budgets) <= set(by_budget)
    }
