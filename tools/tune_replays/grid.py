"""Knows the recorded grid: which of 1,000 held-out questions each setting of the demo answers
rightly, and what its first token costs by formula."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from frontier.settings import work
from pocketvlm import Artifact
from pocketvlm.artifact.stages import Stage
from pocketvlm.files import replace_file
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.questions import read_questions

DATA = Path(__file__).parents[2] / "tests" / "data" / "demo_grid.json"
_TEXT = 40  # text tokens of a prompt
_PRECISION = "fp32"  # of the recorded answers that are taken


@dataclass(frozen=True)
class Recorded:
    """One setting at one budget.

    Attributes:
        setting: as its folder was named, such as ``scope+tower-2-72-keys``.
        budget: visual tokens that it keeps.
        cost: work up to the first token, by that of the unpruned model; see `cost_of`.
        right: bool (questions,).
    """

    setting: str
    budget: int
    cost: float
    right: npt.NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())

    def to_json(self) -> dict[str, Any]:
        """With the answers as bits in base64."""
        bits = base64.b64encode(np.packbits(self.right).tobytes()).decode()
        return {
            "setting": self.setting,
            "budget": self.budget,
            "cost": round(self.cost, 4),
            "right": bits,
        }

    @classmethod
    def of(cls, row: dict[str, Any], questions: int) -> Self:
        """Read what `to_json` wrote."""
        bits = np.frombuffer(base64.b64decode(row["right"]), dtype=np.uint8)
        right = np.unpackbits(bits, count=questions).astype(bool)
        return cls(row["setting"], row["budget"], row["cost"], right)


def read_grid(path: Path = DATA) -> list[Recorded]:
    """The recorded settings, the unpruned one first."""
    data = json.loads(path.read_text())
    return [Recorded.of(row, data["questions"]) for row in data["settings"]]


def record(build: Path, path: Path = DATA) -> int:
    """Write the answers of ``build``, a folder of `python -m frontier`, as a grid; returns how many
    settings it has.

    Only settings that answered every question are taken.
    """
    folder = next(build.glob("test-*"))
    questions = read_questions(folder / "questions.jsonl").questions
    artifacts = {}
    for place in (build / "artifacts").iterdir():
        artifact = Artifact.open(place, "sizes", allow_rejected=True)
        artifacts[artifact.manifest.content_id] = artifact
    answered = _answered(folder / "answers.jsonl", {q.line: q.answers for q in questions})
    settings = []
    for (content_id, budget), right in answered.items():
        if content_id in artifacts and len(right) == len(questions):
            artifact = artifacts[content_id]
            bits = np.array([right[question.line] for question in questions])
            settings.append(Recorded(artifact.root.name, budget, cost_of(artifact, budget), bits))
    settings.sort(key=lambda one: (-one.cost, one.setting))
    rows = ",\n".join(json.dumps(one.to_json()) for one in settings)
    head = json.dumps({"source": "python -m frontier, test split, exact match, fp32"})[1:-1]
    text = f'{{{head}, "questions": {len(questions)}, "settings": [\n{rows}\n]}}\n'
    replace_file(path, text.encode())
    return len(settings)


def _answered(path: Path, expected: dict[int, tuple[str, ...]]) -> dict[tuple[str, int], Any]:
    """{(artifact, budget): {line: right}} of a journal of answers."""
    metric = METRICS["exact"]
    answered: dict[tuple[str, int], Any] = {}
    for line in path.read_text().splitlines()[1:]:
        try:
            row = json.loads(line)
        except ValueError:  # another process is writing the last one
            continue
        if row["decoder_precision"] == row["vision_precision"] == _PRECISION and "error" not in row:
            by_line = answered.setdefault((row["artifact"], row["budget"]), {})
            parts = metric.parts(row["text"], expected[row["line"]])
            by_line[row["line"]] = metric.is_right(parts)
    return answered


def cost_of(artifact: Artifact, budget: int) -> float:
    """Rows times weights that tower and decoder compute up to the first token of a prompt of 40
    text tokens, by those of the unpruned model."""
    manifest = artifact.manifest
    tower, decoder = manifest.vision.tower, manifest.decoder
    tokens = manifest.pruning.tokens_before
    assert tower is not None
    assert decoder.heads is not None
    assert decoder.intermediate is not None
    of_tower = tower.layers * tower.sequence
    of_tower *= 4 * tower.hidden**2 + tower.mlp_matrices * tower.hidden * tower.intermediate
    kv = decoder.kv_heads * decoder.head_dim
    heads = decoder.heads * decoder.head_dim
    of_row = 2 * decoder.hidden * (heads + kv) + 3 * decoder.hidden * decoder.intermediate
    whole = of_tower + decoder.layers * (tokens + _TEXT) * of_row
    in_tower, in_decoder = _stages(artifact.root.name)
    visual = work(in_decoder, decoder.layers, budget) * budget
    taken = of_tower * work(in_tower, tower.layers, tokens)
    return (taken + decoder.layers * (visual + _TEXT) * of_row) / whole


def _stages(name: str) -> tuple[list[Stage], list[Stage]]:
    """The stages in tower and decoder that a folder of the frontier's is named after."""
    stages: dict[str, list[Stage]] = {"tower": [], "decoder": []}
    for part in name.split("+")[1:]:
        where, layer, keep, by = part.split("-", 3)
        stages[where].append(Stage.parse(f"{layer}:{keep}:{by}"))
    return stages["tower"], stages["decoder"]
