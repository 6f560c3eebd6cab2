"""Knows the file of a self-test: JSON, as its schema says, to what is expected and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from pocketvlm.layouts import TileGrid, TokenGrid
from pocketvlm.selftest.expected import (
    Bounds,
    Expected,
    ExpectedAnswer,
    ExpectedBatch,
    ExpectedVision,
    Floats,
    Ints,
    Reader,
    Sample,
)

VERSION: Final = 1


def from_data(data: Mapping[str, Any]) -> Expected:
    """The self-test in an object that the schema takes; raises ValueError, TypeError or
    OverflowError for malformed numbers."""
    return Expected(
        reference=data["reference"],
        grid=_grid(data["grid"]),
        prompt_ids=_ints(data["prompt_ids"]),
        vision={
            int(row["budget"]): ExpectedVision(
                [_batch(batch) for batch in row["batches"]],
                {name: _bounds(bounds) for name, bounds in row["bounds"].items()},
            )
            for row in data["vision"]
        },
        answer=_answer(data["decoder"]),
        input_ids=[int(token) for token in data.get("input_ids", ())],
        question_ids=_ints(data["question_ids"]) if "question_ids" in data else None,
        visual_scores=_floats(data["visual_scores"]) if "visual_scores" in data else None,
    )


def _grid(data: Mapping[str, Any]) -> TileGrid:
    tokens, whole_tokens = (
        None if (pair := data.get(name)) is None else TokenGrid(*map(int, pair))
        for name in ("tokens", "whole_tokens")
    )
    size = data.get("size")
    return TileGrid(
        int(data["rows"]),
        int(data["columns"]),
        data.get("whole"),
        None if size is None else (int(size[0]), int(size[1])),
        tokens,
        whole_tokens,
    )


def _answer(decoder: Mapping[str, Any]) -> ExpectedAnswer:
    readers = {
        Reader(row["engine"], row["precision"], row["vision"]): row for row in decoder["bounds"]
    }
    return ExpectedAnswer(
        [int(token) for token in decoder["token_ids"]],
        _ints(decoder["columns"]),
        _sample(decoder["logits"]),
        {reader: _bounds(row["bounds"]) for reader, row in readers.items()},
        {reader: [int(token) for token in row["token_ids"]] for reader, row in readers.items()},
        _sample(decoder["attention"]) if "attention" in decoder else None,
        _ints(decoder["attended"]) if "attended" in decoder else None,
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


def to_json(expected: Expected) -> str:
    """The file's text: one line, numbers that are read back exactly."""
    return json.dumps(_data(expected), separators=(",", ":")) + "\n"


def _data(expected: Expected) -> dict[str, Any]:
    optional = {
        "question_ids": expected.question_ids,
        "visual_scores": expected.visual_scores,
    }
    return {
        "version": VERSION,
        "reference": dict(expected.reference),
        "grid": _grid_data(expected.grid),
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
        "decoder": _answer_data(expected.answer),
    }


def _grid_data(grid: TileGrid) -> dict[str, Any]:
    stated = {
        "rows": grid.rows,
        "columns": grid.columns,
        "whole": grid.whole,
        "size": grid.size,
        "tokens": grid.tokens and (grid.tokens.rows, grid.tokens.columns),
        "whole_tokens": grid.whole_tokens and (grid.whole_tokens.rows, grid.whole_tokens.columns),
    }
    return {name: value for name, value in stated.items() if value is not None}


def _answer_data(answer: ExpectedAnswer) -> dict[str, Any]:
    return {
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
