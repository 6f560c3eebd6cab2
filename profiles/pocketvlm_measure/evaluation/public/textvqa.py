"""TextVQA (textvqa.org), with the words that Rosetta read where they are given: LLaVA-1.5 is shown
them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm_measure.evaluation.public.base import SHORT, Benchmark, Row, read_json, text


def _rows(files: Sequence[Path]) -> Iterator[Row]:
    words: dict[str, list[str]] = {}
    for found in read_json(files[1])["data"] if len(files) > 1 else ():
        words[text(found, "image_id")] = [str(word) for word in found["ocr_tokens"]]
    for found in read_json(files[0])["data"]:
        image = text(found, "image_id")
        seen = f"Reference OCR token: {', '.join(words.get(image, []))}\n" if len(files) > 1 else ""
        answers = tuple(str(answer) for answer in found["answers"])
        yield Row(
            str(found["question_id"]),
            f"{image}.jpg",
            f"{text(found, 'question')}\n{seen}{SHORT}",
            answers,
            (),
        )


TEXTVQA = Benchmark(
    "textvqa", ("TextVQA_0.5.1_val.json", "[TextVQA_Rosetta_OCR_v0.2_val.json]"), "textvqa", _rows
)
