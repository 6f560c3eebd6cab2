"""The tables of the demo say what was answered: every method is there, draws are averaged, p is
against FasterVLM."""

import pytest

from demo_tables import methods
from demo_tables.artifacts import BUDGETS, SEEDS
from pocketvlm_export.pruning import PRUNERS
from pocketvlm_measure.cases import Case
from pocketvlm_measure.evaluation.asking import Reply
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.plan import Subject
from pocketvlm_measure.evaluation.questions import Question, QuestionSet
from pocketvlm_measure.evaluation.run import Answered, Evaluation
from pocketvlm_measure.evaluation.statistics import mcnemar
from pocketvlm_measure.evaluation.summary import summarise

COUNT = 20


@pytest.fixture
def summary(tmp_path):
    """Every method answers the first so many of 20 questions rightly: FasterVLM 18, the draws 5, 6
    and 7, others 12."""
    questions = [
        Question(n, str(n), "?", ("yes",), (f"{n}.png",), (("first", "rest")[n > COUNT / 2],))
        for n in range(1, COUNT + 1)
    ]
    answered = []
    for name, options in methods.methods():
        right = {"fastervlm": 18, "random": 5 + int(options.get("seed", 0))}.get(name, 12)
        cases = tuple(Case(budget, "onnx", "fp32", "fp32") for budget in BUDGETS)
        subject = Subject(str(tmp_path / "-".join([name, *options.values()])), name, name, cases)
        replies = [Reply(q.line, 1, "yes" if q.line <= right else "no") for q in questions]
        answered += [Answered(subject, case, replies) for case in cases]
    for keep in BUDGETS[1:]:  # as good as FasterVLM at 72 tokens
        subject = Subject(
            str(tmp_path / f"fastv-{keep}"),
            "fastv",
            f"fastv-{keep}",
            (Case(BUDGETS[0], "onnx", "fp32", "fp32"),),
        )
        replies = [
            Reply(q.line, 1, "yes" if q.line <= (18 if keep == 72 else 12) else "no")
            for q in questions
        ]
        answered.append(Answered(subject, subject.cases[0], replies))
    data = QuestionSet(tmp_path, questions, [], "")
    evaluation = Evaluation(data, questions, [], answered, METRICS["exact"])
    return summarise(evaluation, lambda one: methods.answers_of_ours(evaluation, one))


def cells(table):
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {row[0]: row for row in rows}


def test_a_row_a_method_and_a_column_a_budget(summary):
    rows = cells(methods.table(summary))
    assert len(rows) == 2 + sum(name != "none" for name in PRUNERS)
    assert all(len(row) == 1 + len(BUDGETS) for row in rows.values())
    assert rows["FasterVLM"][1].startswith("90.0 [")
    assert rows["DivPrune"][1] == f"60.0 ({mcnemar(0, 6):.2g})"
    assert (
        rows["Random"][5] == f"30.0 ({mcnemar(0, 11):.2g})"
    )  # of 5, 6 and 7 of 20; the largest p is that of 7
    assert SEEDS == 3
    assert rows["FastV from layer 2 of 4"][1:4] == ["", "90.0 (1)", f"60.0 ({mcnemar(0, 6):.2g})"]


def test_kinds_are_of_their_own_questions(summary):
    lines = methods.kinds_table(summary).splitlines()
    assert "| FasterVLM | 144 | 100.0 | 80.0 |" in lines
    assert "| Random | 14 | 60.0 | 0.0 |" in lines
    assert methods.figures(summary)["random"][7] == [25.0, 30.0, 35.0]
