"""GQA (cs.stanford.edu/people/dorarad/gqa): one file of questions by their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json, text


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    for name, found in read_json(files[0]).items():
        prompt = f"{text(found, 'question')}\n{SHORT}"
        kind = text(found["types"], "structural")
        yield Row(name, f"{text(found, 'imageId')}.jpg", prompt, (text(found, "answer"),), (kind,))


GQA = Benchmark("gqa", ("testdev_balanced_questions.json",), "exact", _rows)
