"""TextVQA (textvqa.org), with the words that Rosetta read where they are given: LLaVA-1.5 gets them
in its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json, text
from pocketvlm_measure.evaluation.public.published import Published, fastervlm_table


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    words: dict[str, list[str]] = {}
    for entry in read_json(files[1])["data"] if len(files) > 1 else ():
        words[text(entry, "image_id")] = [str(word) for word in entry["ocr_tokens"]]
    for entry in read_json(files[0])["data"]:
        image = text(entry, "image_id")
        ocr = f"Reference OCR token: {', '.join(words.get(image, []))}\n" if len(files) > 1 else ""
        yield Row(
            str(entry["question_id"]),
            f"{image}.jpg",
            f"{text(entry, 'question')}\n{ocr}{SHORT}",
            tuple(str(answer) for answer in entry["answers"]),
            (),
        )


TEXTVQA = Benchmark(
    name="textvqa",
    files=("TextVQA_0.5.1_val.json", "[TextVQA_Rosetta_OCR_v0.2_val.json]"),
    metric="textvqa",
    read=_rows,
    published=Published(
        fastervlm_table("58.21 57.91 57.90 57.07 55.28 53.09", "58.25 57.38 54.75 51.56")
    ),
)
