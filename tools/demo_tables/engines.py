"""Knows the table of engines: exact match of every precision and decoder with all tokens, and how
large each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from demo_reference.answers import generate_answers
from demo_tables.artifacts import BUDGETS, export_engines, graph_bytes
from demo_tables.asking import cases_of
from pocketvlm import Artifact
from pocketvlm.artifact import Manifest
from pocketvlm_measure.cases import Case
from pocketvlm_measure.evaluation.engines import ENGINES
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.questions import QuestionSet
from pocketvlm_measure.evaluation.run import evaluate
from pocketvlm_measure.evaluation.summary import Score, summarise
from train_demo.__main__ import DEMO
from train_demo.scenes import Question

_EXACT = METRICS["exact"]


@dataclass(frozen=True)
class Row:
    """One way to answer: a decoder with its precision, the vision graph's, megabytes of both, exact
    match."""

    decoder: str
    precision: str
    vision: str
    megabytes: float
    percent: float

    @property
    def name(self) -> str:
        """As the figures' file calls it."""
        return " ".join(part for part in (self.decoder, self.precision, self.vision) if part)


def measure(build: Path, data: QuestionSet, workers: int) -> list[Row]:
    """Hugging Face's ``generate``, then every pair of a vision graph and a decoder."""
    folder = export_engines(build)
    engine = ENGINES["local"](workers)
    evaluation = evaluate(
        data,
        cases_of(folder, workers, BUDGETS[:1]),
        _EXACT,
        build / "engines.jsonl",
        engine,
        resume=True,
    )
    manifest = Artifact.open(folder).manifest
    return [
        _reference(data),
        *(_row(folder, manifest, score) for score in summarise(evaluation).scores),
    ]


def _row(folder: Path, manifest: Manifest, score: Score) -> Row:
    case = score.answered.case
    size = graph_bytes(folder, _graphs(manifest, case)) / 1e6
    return Row(
        case.decoder,
        case.decoder_precision,
        case.vision_precision,
        size,
        100 * score.headline.value,
    )


def _graphs(manifest: Manifest, case: Case) -> set[str]:
    decoder = manifest.decoder.graphs if case.decoder == "onnx" else manifest.decoder.gguf
    return {
        manifest.vision.graphs[case.budget][case.vision_precision],
        decoder[case.decoder_precision],
    }


def _reference(data: QuestionSet) -> Row:
    """The checkpoint itself, nothing pruned; the questions are read from the same file."""
    model = LlavaForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32).eval()
    asked = [
        (
            Image.open(question.images[0]).convert("RGB"),
            Question(question.tags[0], question.text, question.answers[0]),
        )
        for question in data.questions
    ]
    texts = generate_answers(model, AutoProcessor.from_pretrained(DEMO), asked)
    right = [
        _EXACT.parts(text, q.answers)[0] for text, q in zip(texts, data.questions, strict=True)
    ]
    size = (DEMO / "model.safetensors").stat().st_size / 1e6
    return Row("transformers", "fp32", "", size, 100 * sum(right) / len(right))


def table(rows: list[Row], questions: int) -> str:
    """Markdown: a row per way to answer."""
    lines = [
        f"Exact match on {questions} held-out questions, {BUDGETS[0]} of {BUDGETS[0]} visual "
        f"tokens:",
        "",
        "| decoder | its precision | vision | size of both, MB | exact match, % |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.decoder} | {r.precision} | {r.vision} | {r.megabytes:.1f} | {r.percent:.1f} |"
        for r in rows
    ]
    return "\n".join(lines)
