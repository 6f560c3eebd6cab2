"""ScienceQA (github.com/lupantech/ScienceQA): the test questions with a picture, SQA-I in
papers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import LETTER, Benchmark, Row, read_json, text

_LETTERS = "ABCDE"
_SPLIT = "test"


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    problems, splits = (read_json(path) for path in files)
    for name in splits[_SPLIT]:
        found = problems[name]
        if found["image"] is None:
            continue
        hint = text(found, "hint")
        lines = [f"Context: {hint}"] if hint else []
        lines += [text(found, "question")]
        lines += [
            f"{letter}. {choice}"
            for letter, choice in zip(_LETTERS, found["choices"], strict=False)
        ]
        answer = _LETTERS[found["answer"]]
        yield Row(
            name,
            f"{name}/{text(found, 'image')}",
            "\n".join([*lines, LETTER]),
            (answer,),
            (text(found, "subject"),),
        )


SCIENCEQA = Benchmark("scienceqa", ("problems.json", "pid_splits.json"), "choice", _rows)
