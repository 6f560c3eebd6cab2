"""VQA v2 (visualqa.org): the questions and annotations of a split whose answers are public, as the
validation split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json, text


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    questions, annotations = (read_json(path) for path in files)
    answered = {found["question_id"]: found for found in annotations["annotations"]}
    split = text(questions, "data_subtype")
    for asked in questions["questions"]:
        found = answered[asked["question_id"]]
        yield Row(
            str(asked["question_id"]),
            f"COCO_{split}_{asked['image_id']:012d}.jpg",
            f"{text(asked, 'question')}\n{SHORT}",
            tuple(text(answer, "answer") for answer in found["answers"]),
            (text(found, "answer_type"),),
        )


VQAV2 = Benchmark(
    "vqav2",
    ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"),
    "vqa",
    _rows,
)
