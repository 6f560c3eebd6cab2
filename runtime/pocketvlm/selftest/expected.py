"""Knows what a self-test expects of each graph; its file is `pocketvlm.selftest.form`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pocketvlm.layouts import TileGrid

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


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
