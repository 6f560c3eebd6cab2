"""Knows the parts of pocketvlm.json: what each field means; the whole is
`pocketvlm.artifact.manifest`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.artifact.metadata import (
    CANDIDATES,
    DECODER,
    SCORING_DECODER,
    STAGED_DECODER,
    VISION_ENCODER,
)
from pocketvlm.artifact.stages import GIVEN, Stage

# Of every vision graph, whatever else it gives.
VISION_OUTPUTS = ("image_features", "kept_indices", "kept_scores")
# Of a vision graph whose tokens a selector takes: every token's features, and each further one by
# its name behind the prefix. They are inputs of the selector, beside the question's embeddings.
CANDIDATE = "candidate_"
CANDIDATE_FEATURES = f"{CANDIDATE}features"
TEXT_EMBEDS = "text_embeds"
# Numbers that a token's position has, by ``decoder.positions``. With more than one the decoder
# graphs' ``position_ids`` is (numbers, batch, tokens); `pocketvlm.decoders.positions` makes them.
POSITION_AXES = {"contiguous": 1, "mrope": 3}
# Which tokens attend to each other, ``decoder.attention``: each those before it. In the prefill the
# tokens of one picture also each other; or all of a prompt, which is then read in one run. The
# graphs of all but the first have the input ``picture_ids``, `pocketvlm.decoders.attention`.
CAUSAL, PICTURES, PROMPT = ATTENTIONS = ("causal", "pictures", "prompt")
# A field's metadata where its default is not written into pocketvlm.json: artifacts that have no
# use for it stay what they were before there was such a field.
UNSAID = {"unsaid": True}


@dataclass(frozen=True)
class FileEntry:
    """One row of the files table: size in bytes and SHA-256 in lower-case hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """The checkpoint an artifact was exported from; ``commit`` and ``license`` are None where the
    checkpoint does not state them."""

    model: str
    family: str
    commit: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class Pruning:
    """How visual tokens were dropped: N ``tokens_before``, and a graph for each of ``budgets`` (k,
    tokens per tile).

    ``nested`` means that the tokens kept at a small budget are a subset of those kept at a larger
    one, and a kept token's feature does not depend on which others are kept. One graph then serves
    any smaller budget.

    ``merge_dropped`` means that each token that the method drops is averaged into the kept one most
    like it.
    """

    method: str
    tokens_before: int
    budgets: tuple[int, ...]
    default_budget: int
    options: Mapping[str, Any] = field(default_factory=dict)
    nested: bool = True
    merge_dropped: bool = field(default=False, metadata=UNSAID)


@dataclass(frozen=True)
class Tower:
    """The dimensions of a vision graph's matrices: transformer layers, their widths, and the tokens
    of a tile in them, [CLS] counted. With dynamic resolution those of the largest picture.

    ``mlp_matrices`` is 3 where the MLP is gated. ``windowed_layers`` of the layers attend within
    windows of ``window`` patches, the others to the whole picture.
    """

    layers: int
    hidden: int
    intermediate: int
    sequence: int
    mlp_matrices: int = 2
    window: int = 0
    windowed_layers: int = 0


@dataclass(frozen=True)
class Constant:
    """What no picture changes: ``file`` holds raw float32 values, little-endian, of an array of
    this ``shape``."""

    file: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Vision:
    """Vision graphs: ``graphs[budget][precision]`` is a file name. ``image_size`` is (height,
    width) in pixels, None where resolution is dynamic: then N ``tokens_before`` are those of the
    largest picture. ``default_precision`` is used unless another is requested.

    ``tower`` is for estimates. ``layout`` is the name of a layout and its own options: how a
    picture becomes tiles and slots, see `pocketvlm.layouts`.
    ``constants`` are what a layout puts between features, (hidden,) each. ``extras`` are further
    outputs of every vision graph, (batch, k, hidden) each.
    ``totals[budget][grid]`` is how many visual tokens a picture cut into that grid takes at most,
    for people and other clients. ``caps`` are those that were set at export: ``max_pixels``,
    ``max_tiles``, ``fixed_size``. ``stages`` are where the tower drops patches on its way; no
    budget is larger than what the last of them keeps.

    ``selectors[budget]`` is the graph that selects tokens by the prompt, where the method reads
    that: the vision graph then gives all N, and is one for all budgets. Empty for other methods.
    ``selector_table`` is then the precision of the table in ``DecoderSpec.embed`` that a question
    is read by, whichever decoder answers.

    ``made_for`` is the (height, width) that the checkpoint was made for, where ``image_size`` is
    another that was asked for at export; None where it is the checkpoint's own.
    """

    image_size: tuple[int, int] | None
    graphs: Mapping[int, Mapping[str, str]]
    default_precision: str
    tower: Tower | None = None
    layout: Mapping[str, Any] = field(default_factory=lambda: {"name": "single"})
    constants: Mapping[str, Constant] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    totals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    caps: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = field(default=(), metadata=UNSAID)
    selectors: Mapping[int, str] = field(default_factory=dict, metadata=UNSAID)
    selector_table: str = field(default="", metadata=UNSAID)
    made_for: tuple[int, int] | None = field(default=None, metadata=UNSAID)

    @property
    def graph_kind(self) -> str:
        """The kind of ``graphs``, one of `metadata.GRAPH_KINDS`."""
        return CANDIDATES if self.selectors else VISION_ENCODER

    @property
    def candidates(self) -> tuple[str, ...]:
        """What a vision graph of the kind `metadata.CANDIDATES` gives, and its selectors read."""
        return (CANDIDATE_FEATURES, *(CANDIDATE + extra for extra in self.extras))


@dataclass(frozen=True)
class PictureText:
    """Text written around a picture's slots before a prompt is tokenized, as its line breaks may
    make one token with those of the template.

    Attributes:
        placeholder: what the chat template writes for a picture.
        text: what takes its place, the image token once in it.
    """

    placeholder: str
    text: str


@dataclass(frozen=True)
class DecoderSpec:
    """The language model: file names by precision for each engine, and the dimensions a client
    needs.

    ``default_engine`` answers unless another is requested, and each engine in its default of
    ``default_precisions``, {engine: precision or GGUF type}.

    ``embed`` and ``graphs`` are ONNX Runtime's, ``gguf`` is llama.cpp's, by GGUF type. ``tables``
    maps each decoder's precision to that of the table in ``embed`` that it reads. With ``stages``
    the graphs are of another kind, which drops visual tokens between layers; those that are kept
    keep their positions. ``positions`` is how tokens are numbered, one of
    `pocketvlm.decoders.positions.POSITIONS`, and ``first_position`` is the number of a sequence's
    first token. ``attention`` is which of them attend to each other, one of `ATTENTIONS`.
    ``picture_text`` is None if the template writes the image token itself and all the text around
    it.

    ``extras`` are those further outputs of the vision graph that the decoder reads too: an input of
    that name each, float32 (batch, tokens, hidden), zeros where there is text. llama.cpp reads them
    behind the features, in this order.

    ``conv_layers`` are the numbers of those layers that are short convolutions along the sequence
    instead of attention, ascending. Such a layer's cache does not grow. It holds the last
    ``conv_width`` inputs of its convolution, as many as the kernel is long; the next token reads
    all but the oldest.

    ``scores`` says that the graphs also give what their attention pays to each token, by which a
    larger model may drop visual ones, see `pocketvlm.guided.Guided`.

    ``pair`` names two of ``graphs`` that answer together where no precision is requested and memory
    allows both, ``"A+B"``: prefill in A, decode in B. One of them is the default.
    """

    engines: tuple[str, ...]
    default_engine: str
    default_precisions: Mapping[str, str]
    layers: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    context: int
    image_token_id: int
    eos_token_ids: tuple[int, ...]
    heads: int | None = None
    intermediate: int | None = None
    embed: Mapping[str, str] = field(default_factory=dict)
    graphs: Mapping[str, str] = field(default_factory=dict)
    gguf: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    positions: str = "contiguous"
    extras: tuple[str, ...] = field(default=(), metadata=UNSAID)
    first_position: int = field(default=0, metadata=UNSAID)
    attention: str = field(default=CAUSAL, metadata=UNSAID)
    picture_text: PictureText | None = field(default=None, metadata=UNSAID)
    conv_layers: tuple[int, ...] = field(default=(), metadata=UNSAID)
    conv_width: int = field(default=0, metadata=UNSAID)
    stages: tuple[Stage, ...] = field(default=(), metadata=UNSAID)
    scores: bool = field(default=False, metadata=UNSAID)
    pair: str = field(default="", metadata=UNSAID)

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The numbers of the layers whose cache are keys and values."""
        conv = set(self.conv_layers)
        return tuple(layer for layer in range(self.layers) if layer not in conv)

    @property
    def by_engine(self) -> Mapping[str, Mapping[str, str]]:
        """File names of each engine's decoders, by precision or GGUF type."""
        return {"onnx": self.graphs, "llama.cpp": self.gguf}

    def pair_of(self, engine: str) -> str:
        """The ``pair`` that an engine can answer with, as it reads both halves; else empty."""
        halves = set(self.pair.split("+"))
        return self.pair if halves <= set(self.by_engine.get(engine, {})) else ""

    @property
    def graph_kind(self) -> str:
        """The kind of ``graphs``, one of `metadata.GRAPH_KINDS`."""
        if self.scores:
            return SCORING_DECODER
        return STAGED_DECODER if self.stages else DECODER

    @property
    def reads_scores(self) -> bool:
        """Whether ``graphs`` have the input ``visual_scores``, by which a stage ranks tokens."""
        return any(stage.by == GIVEN for stage in self.stages)

    @property
    def segments(self) -> tuple[range, ...]:
        """The layers before the first of ``stages``, between two, and from the last on: those of a
        segment read the same tokens."""
        bounds = (0, *(stage.layer for stage in self.stages), self.layers)
        return tuple(itertools.starmap(range, itertools.pairwise(bounds)))


@dataclass(frozen=True)
class Generation:
    """How the checkpoint was published to answer, by transformers' names (``stop`` for
    ``stop_strings``): see `pocketvlm.decoders.sampling.Sampling`, which checks the values.

    Attributes:
        processors: what every answer goes through unless something else is asked for.
        sampling: temperature and the like of a checkpoint that samples, for those who ask for it.
        not_applied: what else it states, which no answer here goes through.
    """

    processors: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    not_applied: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parity:
    """What the exporter measured against the reference; an artifact whose ``passed`` is false is
    refused."""

    passed: bool
    reference: str
    vision: Mapping[str, Any] = field(default_factory=dict)
    decoder: Mapping[str, Any] = field(default_factory=dict)
    pixels: Mapping[str, Any] = field(default_factory=dict)
    by_precision: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SelfTest:
    """What the graphs of one medium compute of a small picture or clip, by which a device finds out
    whether it computes as it should, see `pocketvlm.selftest`.

    Attributes:
        file: JSON, as `selftest.schema.json` says.
        pictures: PNG files, one for each of the picture's `TileGrid.batches`: its tiles, as
            preprocessing cuts them, one below the other.
    """

    file: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class MediumSpec:
    """A further medium that an artifact reads, pictures beside clips: its own vision graphs, what
    they keep, and the token in its places. The decoder is the same."""

    image_token_id: int
    pruning: Pruning
    vision: Vision
    parity: Parity
    self_test: SelfTest | None = field(default=None, metadata=UNSAID)
