"""Knows the file of a self-test: what is expected of each graph, read as untrusted and written."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import fastjsonschema
import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.errors import ArtifactError
from pocketvlm.layouts import TileGrid, TokenGrid

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

VERSION: Final = 1
MAX_BYTES: Final = 1 << 20
_AGAIN = "export it again"


@dataclass(frozen=True)
class Bounds:
    """How far a graph may be from the reference on a sound device.

    Attributes:
        cosine: the least, of all that is sampled; of logits less their mean.
        kept_overlap: the least part of the kept indices, of a vision graph.
        difference: the most, as a part of max(1, largest); of ``kept_scores`` as a part of the
            largest. None where only the cosine counts.
        measured: what the export measured, by the same names.
    """

    cosine: float
    kept_overlap: float | None = None
    difference: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Entries of an output: ``values`` float32 (rows, columns); ``largest`` absolute value of all
    of it."""

    values: Floats
    largest: float


@dataclass(frozen=True)
class ExpectedBatch:
    """What is kept of the tiles of one size.

    Attributes:
        kept_indices: int64 (tiles, k), ascending.
        rows: int64 (n, 2), tile and kept index of the tokens that are sampled.
        columns: int64 (m,), which of a token's features.
        samples: by the name of the output.
    """

    kept_indices: Ints
    rows: Ints
    columns: Ints
    samples: Mapping[str, Sample]


@dataclass(frozen=True)
class ExpectedVision:
    """What a budget keeps, of each of the picture's batches; bounds by precision."""

    batches: Sequence[ExpectedBatch]
    bounds: Mapping[str, Bounds]


@dataclass(frozen=True, order=True)
class Reader:
    """A decoder, and the precision of the vision graph whose features it reads."""

    engine: str
    precision: str
    vision: str


@dataclass(frozen=True)
class ExpectedAnswer:
    """The logits after the prompt and after each of ``token_ids`` but the last.

    Attributes:
        token_ids: of the reference's largest logits.
        columns: int64 (m,), token ids whose logits are sampled, the largest among them.
        logits: (steps, m).
        bounds: of each reader.
        answers: ids of the largest logits, of each reader where it was exported.
        attention: (1, m), what was paid to those visual tokens of ``attended``, int64 (m,), of a
            decoder that says so; None of others.
        attended: see above.
    """

    token_ids: Sequence[int]
    columns: Ints
    logits: Sample
    bounds: Mapping[Reader, Bounds]
    answers: Mapping[Reader, Sequence[int]]
    attention: Sample | None = None
    attended: Ints | None = None


@dataclass(frozen=True)
class Expected:
    """A self-test of one medium; ``vision`` by budget, ``reference`` says which graphs computed
    what is expected. See selftest.schema.json for the rest."""

    reference: Mapping[str, str]
    grid: TileGrid
    prompt_ids: Ints
    vision: Mapping[int, ExpectedVision]
    answer: ExpectedAnswer
    input_ids: Sequence[int] = ()
    question_ids: Ints | None = None
    visual_scores: Floats | None = None

    def to_json(self) -> str:
        """The file's text: one line, numbers that are read back exactly."""
        return json.dumps(_data(self), separators=(",", ":")) + "\n"


def read_expected(artifact: Artifact) -> Expected:
    """The self-test of an artifact, of the medium that its manifest speaks of.

    Raises:
        ArtifactError: it has none, or one that is damaged or contradicts the manifest.
    """
    stated = artifact.manifest.self_test
    if stated is None:
        raise without_self_test(artifact)
    name = artifact.root / stated.file
    text = artifact.read_text(stated.file, MAX_BYTES)
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        _validator()(data)
        expected = _expected(data)
        _check(expected, artifact)
    except fastjsonschema.JsonSchemaValueException as error:
        reason = error.message.replace("data", "it", 1)[:200]
        raise _damaged(str(name), reason) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(str(name), str(error)[:200]) from error
    return expected


def without_self_test(artifact: Artifact) -> ArtifactError:
    """The refusal of an artifact that was exported before there were self-tests."""
    return ArtifactError(
        f"{artifact.root} has no self-test, by which this provider could be checked",
        advice="export it again, or use the CPU provider",
    )


def _damaged(name: str, reason: str) -> ArtifactError:
    return ArtifactError(f"the self-test {name} is damaged ({reason})", advice=_AGAIN)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


@functools.cache
def _validator() -> Any:
    source = importlib.resources.files(__package__).joinpath("selftest.schema.json")
    return fastjsonschema.compile(json.loads(source.read_text(encoding="utf-8")))


def _expected(data: Mapping[str, Any]) -> Expected:
    grid = data["grid"]
    tokens, whole_tokens = (
        None if (pair := grid.get(name)) is None else TokenGrid(*map(int, pair))
        for name in ("tokens", "whole_tokens")
    )
    size = grid.get("size")
    decoder = data["decoder"]
    readers = {
        Reader(row["engine"], row["precision"], row["vision"]): row for row in decoder["bounds"]
    }
    return Expected(
        reference=data["reference"],
        grid=TileGrid(
            int(grid["rows"]),
            int(grid["columns"]),
            grid.get("whole"),
            None if size is None else (int(size[0]), int(size[1])),
            tokens,
            whole_tokens,
        ),
        prompt_ids=_ints(data["prompt_ids"]),
        vision={
            int(row["budget"]): ExpectedVision(
                [_batch(batch) for batch in row["batches"]],
                {name: _bounds(bounds) for name, bounds in row["bounds"].items()},
            )
            for row in data["vision"]
        },
        answer=ExpectedAnswer(
            [int(token) for token in decoder["token_ids"]],
            _ints(decoder["columns"]),
            _sample(decoder["logits"]),
            {reader: _bounds(row["bounds"]) for reader, row in readers.items()},
            {reader: [int(token) for token in row["token_ids"]] for reader, row in readers.items()},
            _sample(decoder["attention"]) if "attention" in decoder else None,
            _ints(decoder["attended"]) if "attended" in decoder else None,
        ),
        input_ids=[int(token) for token in data.get("input_ids", ())],
        question_ids=_ints(data["question_ids"]) if "question_ids" in data else None,
        visual_scores=_floats(data["visual_scores"]) if "visual_scores" in data else None,
    )


def _batch(data: Mapping[str, Any]) -> ExpectedBatch:
    return ExpectedBatch(
        _ints(data["kept_indices"]),
        _ints(data["rows"]),
        _ints(data["columns"]),
        {name: _sample(sample) for name, sample in data["samples"].items()},
    )


def _bounds(data: Mapping[str, Any]) -> Bounds:
    return Bounds(**{name: data[name] for name in _BOUNDS & data.keys()})


_BOUNDS = {each.name for each in dataclasses.fields(Bounds)}


def _sample(data: Mapping[str, Any]) -> Sample:
    return Sample(_floats(data["values"]), float(_floats([data["largest"]])[0]))


def _ints(values: Any) -> Ints:
    return np.array(values, dtype=np.int64)  # of rows that differ in length: ValueError


def _floats(values: Any) -> Floats:
    with np.errstate(over="ignore"):
        numbers = np.array(values, dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError("a number is not finite")
    return numbers


def _check(expected: Expected, artifact: Artifact) -> None:
    """Raise ValueError for what no graph of the artifact could give."""
    manifest, decoder = artifact.manifest, artifact.manifest.decoder
    if set(expected.vision) != set(manifest.pruning.budgets):
        raise ValueError(f"budgets {sorted(expected.vision)}, not the manifest's")
    if int((expected.prompt_ids == decoder.image_token_id).sum()) != 1:
        raise ValueError("its prompt is not about one picture")
    ids = (*expected.answer.token_ids, *expected.answer.columns.tolist())
    if max((*ids, *expected.prompt_ids.tolist())) >= decoder.vocab:
        raise ValueError("a token id lies outside the vocabulary")
    _check_shape(expected.answer.logits, len(expected.answer.token_ids), expected.answer.columns)
    attention, attended = expected.answer.attention, expected.answer.attended
    if not decoder.scores == (attention is not None) == (attended is not None):
        raise ValueError("what attention pays, and a decoder that does not say so, or none of one")
    if attention is not None and attended is not None:
        _check_shape(attention, 1, attended)
    pictures = len(manifest.self_test.pictures) if manifest.self_test else 0
    names = {"image_features", "kept_scores", *manifest.vision.extras}
    for budget, vision in expected.vision.items():
        if not len(vision.batches) == len(expected.grid.batches) == pictures:
            raise ValueError("as many sizes of tiles as pictures are not there")
        for batch, grid in zip(vision.batches, expected.grid.batches, strict=True):
            if batch.kept_indices.shape[0] != grid.tiles or names != set(batch.samples):
                raise ValueError("other tiles, or other outputs, than the manifest's")
            most = manifest.pruning.tokens_before
            tokens = most if grid.tokens is None else grid.tokens.tokens
            if tokens > most:
                raise ValueError(f"{tokens} tokens of a tile, of {most} at most")
            _check_batch(batch, budget, tokens, decoder.hidden)


def _check_batch(batch: ExpectedBatch, budget: int, tokens: int, hidden: int) -> None:
    kept = batch.kept_indices
    if kept.ndim != 2 or kept.shape[1] != min(budget, tokens):
        raise ValueError(f"kept indices of shape {kept.shape} at budget {budget}")
    if (np.diff(kept, axis=1) <= 0).any() or kept.max() >= tokens:
        raise ValueError(f"kept indices that are not ascending, or not below {tokens}")
    if batch.columns.max() >= hidden:
        raise ValueError(f"a feature that is not one of {hidden}")
    for tile, index in batch.rows.tolist():
        if tile >= len(kept) or index not in kept[tile]:
            raise ValueError("a sampled token is not kept")
    for name, sample in batch.samples.items():
        columns = batch.columns[:1] if name == "kept_scores" else batch.columns
        _check_shape(sample, len(batch.rows), columns)


def _check_shape(sample: Sample, rows: int, columns: Ints) -> None:
    if sample.values.shape != (rows, len(columns)):
        raise ValueError(f"a sample of shape {sample.values.shape}, not {(rows, len(columns))}")


def _data(expected: Expected) -> dict[str, Any]:
    """`Expected` as JSON has it."""
    grid, answer = expected.grid, expected.answer
    stated = {
        "rows": grid.rows,
        "columns": grid.columns,
        "whole": grid.whole,
        "size": grid.size,
        "tokens": grid.tokens and (grid.tokens.rows, grid.tokens.columns),
        "whole_tokens": grid.whole_tokens and (grid.whole_tokens.rows, grid.whole_tokens.columns),
    }
    optional = {
        "question_ids": expected.question_ids,
        "visual_scores": expected.visual_scores,
    }
    return {
        "version": VERSION,
        "reference": dict(expected.reference),
        "grid": {name: value for name, value in stated.items() if value is not None},
        "prompt_ids": expected.prompt_ids.tolist(),
        "input_ids": list(expected.input_ids),
        **{name: _listed(value) for name, value in optional.items() if value is not None},
        "vision": [
            {
                "budget": budget,
                "batches": [_batch_data(batch) for batch in vision.batches],
                "bounds": {name: _bounds_data(each) for name, each in vision.bounds.items()},
            }
            for budget, vision in expected.vision.items()
        ],
        "decoder": {
            "token_ids": list(answer.token_ids),
            "columns": answer.columns.tolist(),
            "logits": _sample_data(answer.logits),
            **_attention_data(answer),
            "bounds": [
                {
                    **dataclasses.asdict(reader),
                    "token_ids": list(answer.answers[reader]),
                    "bounds": _bounds_data(bounds),
                }
                for reader, bounds in answer.bounds.items()
            ],
        },
    }


def _attention_data(answer: ExpectedAnswer) -> dict[str, Any]:
    if answer.attention is None or answer.attended is None:
        return {}
    return {"attention": _sample_data(answer.attention), "attended": answer.attended.tolist()}


def _batch_data(batch: ExpectedBatch) -> dict[str, Any]:
    return {
        "kept_indices": batch.kept_indices.tolist(),
        "rows": batch.rows.tolist(),
        "columns": batch.columns.tolist(),
        "samples": {name: _sample_data(sample) for name, sample in batch.samples.items()},
    }


def _bounds_data(bounds: Bounds) -> dict[str, Any]:
    return {
        name: value for name, value in dataclasses.asdict(bounds).items() if value not in (None, {})
    }


def _sample_data(sample: Sample) -> dict[str, Any]:
    return {"values": _listed(sample.values), "largest": _listed(np.float32(sample.largest))}


def _listed(values: Any) -> Any:
    """Numbers in the shortest decimals that are read back as the same float32."""
    if isinstance(values, np.ndarray) and values.ndim:
        return [_listed(value) for value in values]
    return int(values) if np.issubdtype(values.dtype, np.integer) else float(str(values))
