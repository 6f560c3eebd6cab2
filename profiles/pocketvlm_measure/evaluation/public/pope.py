"""POPE (github.com/AoiDragon/POPE): three files of yes-or-no questions, which differ in how the
objects asked for are chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json_lines, text
from pocketvlm_measure.evaluation.public.published import Published, fastervlm_table


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    for path in files:
        category = path.stem.rpartition("_")[2]
        for entry in read_json_lines(path):
            prompt = f"{text(entry, 'text')}\n{SHORT}"
            name = f"{category}-{entry['question_id']}"
            yield Row(name, text(entry, "image"), prompt, (text(entry, "label"),), (category,))


POPE = Benchmark(
    name="pope",
    files=("coco_pope_random.json", "[coco_pope_popular.json]", "[coco_pope_adversarial.json]"),
    metric="yesno-f1",
    read=_rows,
    # Papers give the mean F1 of the three files.
    published=Published(
        fastervlm_table("85.88 85.92 86.20 83.46 75.85 67.24", "82.45 73.74 57.30 35.47"),
        mean_over_tags=True,
    ),
)
