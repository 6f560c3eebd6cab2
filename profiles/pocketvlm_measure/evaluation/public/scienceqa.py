"""ScienceQA (github.com/lupantech/ScienceQA): the test questions with a picture, SQA-I in
papers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import LETTER, Benchmark, Row, read_json, text
from pocketvlm_measure.evaluation.public.published import Published, fastervlm_table

_LETTERS = "ABCDE"
_SPLIT = "test"


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    problems, splits = (read_json(path) for path in files)
    for number in splits[_SPLIT]:
        problem = problems[number]
        if problem["image"] is None:
            continue
        hint = text(problem, "hint")
        lines = [f"Context: {hint}"] if hint else []
        lines += [text(problem, "question")]
        lines += [
            f"{letter}. {choice}"
            for letter, choice in zip(_LETTERS, problem["choices"], strict=False)
        ]
        answer = _LETTERS[problem["answer"]]
        yield Row(
            number,
            f"{number}/{text(problem, 'image')}",
            "\n".join([*lines, LETTER]),
            (answer,),
            (text(problem, "subject"),),
        )


SCIENCEQA = Benchmark(
    name="scienceqa",
    files=("problems.json", "pid_splits.json"),
    metric="choice",
    read=_rows,
    published=Published(
        fastervlm_table("69.51 68.57 68.37 67.92 68.91 69.56", "68.96 69.11 69.81 70.00")
    ),
)
