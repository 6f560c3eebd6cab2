"""GQA (cs.stanford.edu/people/dorarad/gqa): one file of questions by their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json, text
from pocketvlm_measure.evaluation.public.published import Published, fastervlm_table


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    for number, entry in read_json(files[0]).items():
        prompt = f"{text(entry, 'question')}\n{SHORT}"
        kind = text(entry["types"], "structural")
        image = f"{text(entry, 'imageId')}.jpg"
        yield Row(number, image, prompt, (text(entry, "answer"),), (kind,))


GQA = Benchmark(
    name="gqa",
    files=("testdev_balanced_questions.json",),
    metric="exact",
    read=_rows,
    published=Published(
        fastervlm_table(
            "61.94 61.51 60.64 58.34 54.91 51.51",
            "60.05 56.58 51.20 46.03",
            **{"FastV": {576: 62.0, 288: 60.4}},
        )
    ),
)
