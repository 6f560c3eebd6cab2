"""Knows what the client must do as the Python runtime does, and compares: answers, kept patches,
pictures, refusals."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm_measure.evaluation.questions import Question
from swift_client.jobs import Client, Job, Result

STEPS = 32
FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FURTHER = "What shape is it?"
_MOST = 1 << 30  # tokens of a picture that is one tile


@dataclass(frozen=True)
class Row:
    """How many results of a check are right.

    Attributes:
        check: what was checked.
        same: results that are as they should be.
        asked: results there should be.
        note: of the first one that is not.
    """

    check: str
    same: int
    asked: int
    note: str = ""

    def __str__(self) -> str:
        note = f"  ({self.note})" if self.note else ""
        return f"{self.same:3} of {self.asked:3}  {self.check}{note}"


def counted(check: str, pairs: Sequence[tuple[Any, Any]]) -> Row:
    """A row of pairs of what came and what should have."""
    wrong = [
        f"{ours!r:.300} instead of {theirs!r:.300}" for ours, theirs in pairs if ours != theirs
    ]
    return Row(check, len(pairs) - len(wrong), len(pairs), wrong[0] if wrong else "")


def answers(
    client: Client, artifact: Path, questions: Sequence[Question], budgets: Sequence[int]
) -> Iterator[Row]:
    """Every question at every budget: ids, text and kept patches as `VLM.generate` has them, and
    the stream's pieces add up."""
    vlm = VLM.load(artifact)
    per_tile = Artifact.open(artifact).manifest.pruning.tokens_before
    for budget in budgets:
        jobs = [_job(artifact, q.images[0], q.text, budget=budget) for q in questions]
        results = client.run(jobs)
        ours = [_answered(result) for result in results]
        theirs = [_generated(vlm, q.images[0], q.text, budget, per_tile) for q in questions]
        yield counted(
            f"answers of {artifact.name}, budget {budget}", list(zip(ours, theirs, strict=True))
        )
        pieces = [("".join(r.get("pieces", [])), r.get("text")) for r in results]
        yield counted(f"streams of {artifact.name}, budget {budget}", pieces)
    vlm.close()


def conversations(client: Client, artifact: Path, questions: Sequence[Question]) -> Iterator[Row]:
    """A further question of each, with the picture's rows in the cache; two answers at once; one
    that is cancelled, and asked again."""
    vlm = VLM.load(artifact)
    first = [_job(artifact, q.images[0], q.text, further=FURTHER) for q in questions]
    pairs, cached = [], []
    for question, result in zip(questions, client.run(first), strict=True):
        chat = vlm.chat()
        chat.ask(question.text, [question.images[0]], sampling=Sampling(max_new_tokens=STEPS))
        theirs = chat.ask(FURTHER, sampling=Sampling(max_new_tokens=STEPS))
        further = result.get("further", {})
        pairs.append((further.get("token_ids"), theirs.token_ids))
        cached.append((further.get("cached_tokens", 0) >= theirs.prompt_tokens["cached"] > 0, True))
    yield counted("further questions", pairs)
    yield counted("further questions, the picture in the cache", cached)
    one, other = questions[:2]
    alone = [_generated(vlm, q.images[0], q.text, None)["token_ids"] for q in (one, other)]
    again = _job(artifact, one.images[0], one.text, do="cancel", after=1)
    at_once = _job(artifact, one.images[0], one.text, do="both", further=other.text)
    cancelled, both = client.run([again, at_once])
    yield counted(
        "an answer that is cancelled, and then asked again",
        [(cancelled.get("cancelled"), True), (cancelled.get("token_ids"), alone[0])],
    )
    pair = [both.get(name, {}).get("token_ids") for name in ("first", "second")]
    yield counted("two answers at once", list(zip(pair, alone, strict=True)))
    vlm.close()


def self_tests(client: Client, artifact: Path, question: Question) -> Iterator[Row]:
    """Another provider answers where it passes the artifact's self-test, and is refused where it
    computes something else, or the test expects something else."""
    job = _job(artifact, question.images[0], question.text)
    foreign = {**job, "coreml": True}
    vlm = VLM.load(artifact)
    expected = _generated(vlm, question.images[0], question.text, None)
    vlm.close()
    (sound,) = client.run([foreign])
    yield counted(
        "a provider that passes the self-test",
        [(_answered(sound), expected), (bool(sound.get("self_test")), True)],
    )
    (broken,) = client.run([foreign], wrong="coreml")
    yield _refused("a provider with wrong kernels is refused", [broken], "engine")
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder, "damaged")
        shutil.copytree(artifact, damaged)
        name = json.loads((damaged / "using.json").read_text())["self_test"]["file"]
        _damage(damaged / name)
        (other,) = client.run([{**job, "folder": str(damaged), "tests": True}])
    yield _refused("a self-test that expects something else", [other], "engine")


def refusals(client: Client, artifact: Path, question: Question) -> Iterator[Row]:
    """What is asked for and cannot be had."""
    job = _job(artifact, question.images[0], question.text)
    wrong: list[Job] = [
        {**job, "budget": 37},
        {**job, "budget": 0},
        {**job, "load": 145},
        {**job, "vision_precision": "fp8"},
        {**job, "question": "a second <image>"},
    ]
    yield _refused("requests that are refused", client.run(wrong), "request")
    changes: dict[str, dict[str, Any]] = {
        "needs": {"needs": {"telepathy": "the model reads minds"}},
        "format": {"format": 2},
        "ids": {"prompt": {"question": "", "text": "USER:", "ids": [1, 2]}},
        "layout": {"layout": {"name": "frames", "one_grid": True, "unit": "frame", "options": {}}},
        "size": {"hidden": -1},
    }
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for name, change in changes.items():
            damaged = Path(folder, name)
            shutil.copytree(artifact, damaged)
            facts = json.loads((damaged / "using.json").read_text())
            (damaged / "using.json").write_text(json.dumps({**facts, **change}))
            made.append({**job, "folder": str(damaged)})
        yield _refused("folders that are refused", client.run(made), "artifact")


def resized(client: Client, pictures: Sequence[Path]) -> Iterator[Row]:
    """Pillow's filters bit for bit, EXIF's orientations, alpha on white."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        noise = Path(folder, "noise.png")
        Image.fromarray(rng.integers(0, 256, (67, 91, 3), dtype=np.uint8)).save(noise)
        sizes = [(96, 96), (33, 150), (1, 1), (91, 20), (200, 67), (7, 301)]
        for name, filter_ in FILTERS.items():
            jobs, expected = [], []
            for path, (width, height) in itertools.product([noise, *pictures], sizes):
                jobs.append(
                    {
                        "do": "resize",
                        "picture": str(path),
                        "filter": name,
                        "width": width,
                        "height": height,
                    }
                )
                with Image.open(path) as image:
                    expected.append(image.convert("RGB").resize((width, height), filter_).tobytes())
            ours = [_samples(result) for result in client.run(jobs)]
            yield counted(f"pictures resized by {name}", list(zip(ours, expected, strict=True)))
        yield _oriented(client, noise)
        yield _on_white(client, Path(folder, "alpha.png"))


def _oriented(client: Client, path: Path) -> Row:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    jobs = [{"do": "resize", "picture": str(path), "orientation": number} for number in (1, *turns)]
    with Image.open(path) as image:
        expected = [image.tobytes()]
        expected += [image.transpose(Image.Transpose(turn)).tobytes() for turn in turns.values()]
    ours = [_samples(result) for result in client.run(jobs)]
    return counted("orientations", list(zip(ours, expected, strict=True)))


def _on_white(client: Client, path: Path) -> Row:
    """Every sample under every alpha."""
    samples, alpha = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.stack([samples, 255 - samples, samples, alpha], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    image.save(path)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = Image.alpha_composite(white, image).convert("RGB").tobytes()
    (result,) = client.run([{"do": "resize", "picture": str(path)}])
    return counted("alpha on white", [(_samples(result), expected)])


def _samples(result: Result) -> bytes:
    return base64.b64decode(result.get("rgb", ""))


def _job(artifact: Path, picture: str, question: str, **more: Any) -> Job:
    job = {"do": "ask", "folder": str(artifact.resolve()), "picture": str(picture)}
    return {**job, "question": question, "most": STEPS, "threads": 1, **more}


def _answered(result: Result) -> Any:
    if "error" in result:
        return result
    return {"token_ids": result["token_ids"], "kept": result["kept"]}


def _generated(
    vlm: VLM, picture: str, question: str, budget: int | None, per_tile: int = _MOST
) -> dict[str, Any]:
    """As the client gives it: kept numbers by tile, each of which has ``per_tile``."""
    sampling = Sampling(max_new_tokens=STEPS)
    answer = vlm.generate(question, [picture], budget=budget, sampling=sampling)
    (kept,) = answer.kept_indices
    tiles = itertools.groupby(kept, key=lambda index: index // per_tile)
    by_tile = [[index % per_tile for index in group] for _, group in tiles]
    return {"token_ids": list(answer.token_ids), "kept": by_tile}


def _damage(path: Path) -> None:
    """Expect other patches, as many."""
    data = json.loads(path.read_text())
    for row in data["vision"]:
        for batch in row["batches"]:
            batch["kept_indices"] = [
                [index + 1000 for index in kept] for kept in batch["kept_indices"]
            ]
    path.write_text(json.dumps(data))


def _refused(check: str, results: Sequence[Result], kind: str) -> Row:
    return counted(check, [(result.get("kind"), kind) for result in results])
