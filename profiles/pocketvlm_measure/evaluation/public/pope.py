"""POPE (github.com/AoiDragon/POPE): three files of yes-or-no questions, one a way of choosing what
is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json_lines, text


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    for path in files:
        category = path.stem.rpartition("_")[2]
        for found in read_json_lines(path):
            prompt = f"{text(found, 'text')}\n{SHORT}"
            name = f"{category}-{found['question_id']}"
            yield Row(name, text(found, "image"), prompt, (text(found, "label"),), (category,))


POPE = Benchmark(
    "pope",
    ("coco_pope_random.json", "[coco_pope_popular.json]", "[coco_pope_adversarial.json]"),
    "yesno-f1",
    _rows,
)
