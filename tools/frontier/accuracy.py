"""Knows how accurate settings of a checkpoint are: their artifacts, the questions, and the figures
with intervals. What exists is not made again."""

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
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.files import replace_file
from pocketvlm_export import pipeline
from pocketvlm_export.kept_files import KeptFiles
from pocketvlm_export.pruning import find_pruner
from pocketvlm_measure.evaluation.engines import ENGINES
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.questions import QuestionSet, read_questions
from pocketvlm_measure.evaluation.run import Answered, Evaluation, evaluate
from pocketvlm_measure.evaluation.statistics import Difference, Estimate
from pocketvlm_measure.evaluation.summary import summarise
from pocketvlm_measure.progress import counter

DEMO = "demo"
_ITS_FOLDER = ("output", "overwrite")  # options whose refusals are about the destination alone


@dataclass(frozen=True)
class Bench:
    """What is measured, and where what was made for it lies.

    Attributes:
        build: a folder.
        model: the checkpoint, a folder, or the demo.
        sets: files of questions by split, as `pocketvlm evaluate` reads them; the demo's are drawn
            where there is none.
        precision: of the decoder.
    """

    build: Path
    model: str = DEMO
    sets: tuple[tuple[str, Path], ...] = ()
    precision: str = "fp32"

    def questions(self, split: str, count: int) -> QuestionSet:
        """The first ``count`` questions of a split; splits share no picture."""
        given = dict(self.sets).get(split)
        if given is not None:
            return read_questions(given, count)
        if self.model != DEMO:
            raise RequestError(
                f"no questions of the {split} split", advice="name a file of them, or the demo"
            )
        folder = self.build / f"{split}-{count}"
        path = folder / "questions.jsonl"
        return read_questions(path if path.exists() else write_set(folder, split, count))

    def folder_of(self, setting: Setting) -> Path:
        """Where the artifact of a setting lies."""
        return self.build / "artifacts" / setting.name

    def refusal(self, setting: Setting) -> Path:
        """The file that says why a setting cannot be exported."""
        return self.build / f"{setting.name}.refused"

    def answers(self, data: QuestionSet) -> Path:
        """The file of all answers to a set."""
        return self.build / f"answers-{data.sha256[:12]}-{len(data.questions)}.jsonl"


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


def export_all(
    bench: Bench, wanted: Sequence[tuple[Setting, Sequence[int]]], workers: int
) -> dict[Setting, str]:
    """Export the checkpoint for each setting at its budgets; returns why some could not be.

    A reason is kept in a file beside the artifacts: delete it to try again.
    """
    left = [
        (setting, budgets)
        for setting, budgets in wanted
        if not (bench.folder_of(setting) / MANIFEST_NAME).exists()
        and not bench.refusal(setting).exists()
    ]
    with counter(total=len(left), desc="exporting", unit="artifact") as bar:
        calls = [partial(export_one, bench, *one) for one in left]
        for _ in in_processes(calls, workers):
            bar.update()
    return {
        setting: bench.refusal(setting).read_text().strip()
        for setting, _ in wanted
        if bench.refusal(setting).exists()
    }


def export_one(bench: Bench, setting: Setting, budgets: Sequence[int]) -> None:
    """Export the checkpoint, gate included, or write down what refuses it; decoders that are alike
    are one on disk."""
    graphs = budgets[:1] if find_pruner(setting.pruner).nested else budgets
    try:
        options = setting.export_options(graphs, decoder_precisions=(bench.precision,))
        pipeline.export(
            bench.model, bench.folder_of(setting), options, kept=KeptFiles(bench.build / "shared")
        )
    except PocketVLMError as error:
        if error.setting in _ITS_FOLDER:
            raise  # says nothing of the setting: another run may be at work there
        bench.build.mkdir(parents=True, exist_ok=True)
        replace_file(bench.refusal(setting), f"{error}\n".encode())


def measure(
    bench: Bench,
    data: QuestionSet,
    wanted: Sequence[tuple[Setting, Sequence[int]]],
    workers: int,
) -> list[Accuracy]:
    """Ask every setting that could be exported the questions, at each of its budgets."""
    refused = export_all(bench, wanted, workers)
    subjects, settings = [], {}
    for setting, budgets in wanted:
        if setting not in refused:
            folder = bench.folder_of(setting)
            settings[str(folder.resolve())] = setting
            subjects += cases_of(folder, workers, budgets=budgets, shares_prefill=True)
    if not subjects:
        return []
    evaluation = evaluate(
        data,
        subjects,
        METRICS["exact"],
        bench.answers(data),
        ENGINES["local"](workers),
        resume=True,
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
