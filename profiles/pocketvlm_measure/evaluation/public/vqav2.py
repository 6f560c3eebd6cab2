"""VQA v2 (visualqa.org): the questions and annotations of a split whose answers are public, such as
the validation split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json, text
from pocketvlm_measure.evaluation.public.published import Published, fastervlm_table


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    questions, annotations = (read_json(path) for path in files)
    by_question = {entry["question_id"]: entry for entry in annotations["annotations"]}
    split = text(questions, "data_subtype")
    for question in questions["questions"]:
        annotation = by_question[question["question_id"]]
        yield Row(
            str(question["question_id"]),
            f"COCO_{split}_{question['image_id']:012d}.jpg",
            f"{text(question, 'question')}\n{SHORT}",
            tuple(text(answer, "answer") for answer in annotation["answers"]),
            (text(annotation, "answer_type"),),
        )


VQAV2 = Benchmark(
    name="vqav2",
    files=("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"),
    metric="vqa-llava",
    read=_rows,
    published=Published(
        fastervlm_table("78.52 78.39 77.86 76.19 71.92 66.75", "77.67 74.07 65.38 55.92"),
        remark="papers ask test-dev, whose answers are not public",
    ),
)
