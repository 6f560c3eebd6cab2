"""Knows how the self-test of an artifact is read, as what a stranger wrote: bounded, and compared
with the manifest."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any, Final

import fastjsonschema
import numpy as np

from pocketvlm.artifact import Artifact
from pocketvlm.errors import ArtifactError
from pocketvlm.selftest.expected import Expected, ExpectedBatch, Ints, Sample
from pocketvlm.selftest.form import from_data
from pocketvlm_targets.text import parse_json

MAX_BYTES: Final = 1 << 20
_AGAIN = "export it again"


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
        data = parse_json(text, parse_constant=_refuse_constant)
        _validator()(data)
        expected = from_data(data)
        _check(expected, artifact)
    except fastjsonschema.JsonSchemaValueException as error:
        reason = error.message.replace("data", "it", 1)[:200]
        raise _damaged(str(name), reason) from error
    except (ValueError, TypeError, OverflowError) as error:
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
    raise ValueError(f"{text} is not a number")


@functools.cache
def _validator() -> Any:
    source = importlib.resources.files(__package__).joinpath("selftest.schema.json")
    return fastjsonschema.compile(json.loads(source.read_text(encoding="utf-8")))


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
