"""Knows the fields of pocketvlm.json and the rules between them; knows nothing of the files it
lists."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import fastjsonschema

from pocketvlm.artifact.metadata import DECODER, FASTV_DECODER
from pocketvlm.errors import ArtifactError
from pocketvlm.limits import settle_numbers, whole

SCHEMA_VERSION = "2.0"
MANIFEST_NAME = "pocketvlm.json"
# Of every vision graph, whatever else it gives.
VISION_OUTPUTS = ("image_features", "kept_indices", "kept_scores")
# What decoder graphs read beside caches and ``decoder.extras``, whatever their kind.
_DECODER_INPUTS = ("inputs_embeds", "attention_mask", "position_ids", "picture_ids")
_FLOAT = 4  # bytes
# Numbers that a token's position has, by ``decoder.positions``. With more than one the decoder
# graphs' ``position_ids`` is (numbers, batch, tokens); `pocketvlm.decoders.positions` makes them.
POSITION_AXES = {"contiguous": 1, "mrope": 3}
# Which tokens see each other, ``decoder.attention``: each those before it; in the prefill the
# tokens of one picture also each other; or all of a prompt, which is then read in one run. The
# graphs of all but the first have the input ``picture_ids``, `pocketvlm.decoders.attention`.
CAUSAL, PICTURES, PROMPT = ATTENTIONS = ("causal", "pictures", "prompt")
# A field's metadata where its default is not written into pocketvlm.json: artifacts that have no
# use for it stay what they were before there was such a field.
_UNSAID = {"unsaid": True}


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
    one, and that a kept token's feature does not depend on which others are kept: then any smaller
    budget can be served from one graph.
    """

    method: str
    tokens_before: int
    budgets: tuple[int, ...]
    default_budget: int
    options: Mapping[str, Any] = field(default_factory=dict)
    nested: bool = True


@dataclass(frozen=True)
class Tower:
    """The dimensions of a vision graph's matrices: transformer layers, their widths, and the tokens
    of a tile in them, [CLS] counted; with dynamic resolution those of the largest picture.

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
    """Vision graphs: ``graphs[budget][precision]`` is a file name; ``image_size`` is (height,
    width) in pixels, None where resolution is dynamic: then N ``tokens_before`` are those of the
    largest picture. ``default_precision`` is used unless another is requested.

    ``tower`` is for estimates. ``layout`` is the name of a layout and its own options: how a
    picture becomes tiles and slots, see `pocketvlm.layouts`.
    ``constants`` are what a layout puts between features, (hidden,) each. ``extras`` are further
    outputs of every vision graph, (batch, k, hidden) each.
    ``totals[budget][grid]`` is how many visual tokens a picture cut into that grid takes at most,
    for people and other clients. ``caps`` are those that were set at export: ``max_pixels``,
    ``max_tiles``, ``fixed_size``.
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


@dataclass(frozen=True)
class FastV:
    """Visual tokens dropped inside the decoder: layers from ``layer`` on, counted from 0, read
    ``keep`` per picture.

    All others keep their original positions.
    """

    layer: int
    keep: int

    def __post_init__(self) -> None:
        settle_numbers(self)
        for name in ("layer", "keep"):
            whole(getattr(self, name), f"fastv_{name}")


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
    maps each decoder's precision to that of the table in ``embed`` that it reads. With
    ``fastv`` the graphs are of another kind, which drops visual tokens on its way. ``positions`` is
    how tokens are numbered, one of `pocketvlm.decoders.positions.POSITIONS`, and
    ``first_position`` is the number of a sequence's first token. ``attention`` is which of them see
    each other, one of `ATTENTIONS`. ``picture_text`` is None where the template writes the image
    token itself, and with it all that stands around.

    ``extras`` are those further outputs of the vision graph that the decoder reads too: an input of
    that name each, float32 (batch, tokens, hidden), zeros where there is text. llama.cpp reads them
    behind the features, in this order.

    ``conv_layers`` are the numbers of those layers that are short convolutions along the sequence
    instead of attention, ascending. Such a layer's cache does not grow: it holds the last
    ``conv_width`` inputs of its convolution, as many as the kernel is long, of which the next token
    reads all but the oldest.
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
    fastv: FastV | None = None
    positions: str = "contiguous"
    extras: tuple[str, ...] = field(default=(), metadata=_UNSAID)
    first_position: int = field(default=0, metadata=_UNSAID)
    attention: str = field(default=CAUSAL, metadata=_UNSAID)
    picture_text: PictureText | None = field(default=None, metadata=_UNSAID)
    conv_layers: tuple[int, ...] = field(default=(), metadata=_UNSAID)
    conv_width: int = field(default=0, metadata=_UNSAID)

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The numbers of the layers whose cache are keys and values."""
        conv = set(self.conv_layers)
        return tuple(layer for layer in range(self.layers) if layer not in conv)

    @property
    def by_engine(self) -> Mapping[str, Mapping[str, str]]:
        """File names of each engine's decoders, by precision or GGUF type."""
        return {"onnx": self.graphs, "llama.cpp": self.gguf}

    @property
    def graph_kind(self) -> str:
        """The kind of ``graphs``, one of `metadata.GRAPH_KINDS`."""
        return FASTV_DECODER if self.fastv else DECODER


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
class MediumSpec:
    """A further medium that an artifact reads, pictures beside clips: its own vision graphs, what
    they keep, and the token in its places; the decoder is the same."""

    image_token_id: int
    pruning: Pruning
    vision: Vision
    parity: Parity


@dataclass(frozen=True)
class Manifest:
    """The whole of pocketvlm.json. Fields that a later minor version adds are accepted and
    ignored.

    ``pruning``, ``vision`` and the decoder's ``image_token_id`` are of one medium, pictures or
    clips, as ``vision.layout`` says; ``media`` are further ones by name, see `reading`.
    """

    artifact_id: str
    source: Source
    pruning: Pruning
    vision: Vision
    decoder: DecoderSpec
    parity: Parity
    files: Mapping[str, FileEntry]
    media: Mapping[str, MediumSpec] = field(default_factory=dict)
    generation: Generation = field(default_factory=Generation)
    created_by: Mapping[str, str] = field(default_factory=dict)
    requires: Mapping[str, str] = field(default_factory=dict)
    schema_version: str = SCHEMA_VERSION

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse and validate; raises `ArtifactError` naming the field that is wrong."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{MANIFEST_NAME} is not valid JSON ({error})", advice="export or download it again"
            ) from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Validate against the JSON Schema and the rules it cannot express, then build; raises
        `PocketVLMError`."""
        _check_version(data)
        try:
            _validator()(data)
        except fastjsonschema.JsonSchemaValueException as error:
            reason = (
                error.message.replace("data", "the object", 1)
                if error.name == "data"
                else error.message
            )
            raise ArtifactError(
                f"{MANIFEST_NAME} is damaged: {reason}", advice="export or download it again"
            ) from error
        manifest = cls(
            artifact_id=data["artifact_id"],
            source=_build(Source, data["source"]),
            pruning=_build(Pruning, data["pruning"]),
            vision=_vision(data["vision"]),
            decoder=_build(
                DecoderSpec,
                {
                    **data["decoder"],
                    "fastv": _optional(FastV, data["decoder"].get("fastv")),
                    "picture_text": _optional(PictureText, data["decoder"].get("picture_text")),
                },
            ),
            media={name: _medium(medium) for name, medium in data.get("media", {}).items()},
            generation=_build(Generation, data.get("generation", {})),
            parity=_build(Parity, data["parity"]),
            files={name: _build(FileEntry, entry) for name, entry in data["files"].items()},
            created_by=dict(data.get("created_by", {})),
            requires=dict(data.get("requires", {})),
            schema_version=data["schema_version"],
        )
        _check_consistency(manifest)
        for name in manifest.media:
            _check_consistency(manifest.reading(name))
        return manifest

    def reading(self, medium: str) -> Self:
        """The manifest as that of an artifact which reads this one of ``media`` alone."""
        other = self.media[medium]
        decoder = dataclasses.replace(self.decoder, image_token_id=other.image_token_id)
        return dataclasses.replace(
            self,
            pruning=other.pruning,
            vision=other.vision,
            decoder=decoder,
            parity=other.parity,
            media={},
        )

    @property
    def passed(self) -> bool:
        """Whether every medium passed its parity check."""
        return self.parity.passed and all(other.parity.passed for other in self.media.values())

    @property
    def content_id(self) -> str:
        """SHA-256 (hex) of the files table, whose checksums were held against the files when the
        artifact was opened: two artifacts may state one ``artifact_id``, but not this."""
        return files_digest(self.files)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, in the order people read it."""
        data = dataclasses.asdict(self)
        order = ["schema_version", "artifact_id", "created_by", "source", "pruning", "vision"]
        order += ["decoder", *(["media"] if self.media else [])]  # which most have not
        order += ["generation", "parity", "requires", "files"]
        data["decoder"] = _said(self.decoder, data["decoder"])
        read = [(data, self.vision)]
        read += [(data["media"][name], each.vision) for name, each in self.media.items()]
        for part, vision in read:
            part["vision"] = _said(vision, part["vision"])
            graphs = part["vision"]["graphs"]
            part["vision"]["graphs"] = {str(budget): graphs[budget] for budget in graphs}
        plain: dict[str, Any] = json.loads(json.dumps({key: data[key] for key in order}))
        return plain

    def to_json(self) -> str:
        """`to_dict` as indented text, ending in a newline."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def files_digest(files: Mapping[str, FileEntry]) -> str:
    """SHA-256 (hex) of the canonical JSON of a files table: keys sorted, no spaces."""
    table = {name: dataclasses.asdict(entry) for name, entry in files.items()}
    canonical = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@functools.cache
def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft-07) of pocketvlm.json, as shipped beside this module."""
    text = (
        importlib.resources.files(__package__)
        .joinpath("manifest.schema.json")
        .read_text(encoding="utf-8")
    )
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def _validator() -> Any:
    return fastjsonschema.compile(json_schema())


def _build(cls: type[Any], data: Mapping[str, Any]) -> Any:
    """A dataclass from the fields that it has; JSON arrays become tuples."""
    names = {f.name for f in dataclasses.fields(cls)}
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in data.items()
        if key in names
    }
    for key, value in values.items():
        # JSON Schema takes 2.0 for an integer, Python's shapes and indices do not; no field here is
        # a fraction.
        if any(
            isinstance(item, float) for item in (value if isinstance(value, tuple) else (value,))
        ):
            raise ArtifactError(
                f"{MANIFEST_NAME} is damaged: {key} is {value}",
                expected="an integer without a decimal point",
                advice="export or download it again",
            )
    return cls(**values)


def _said(part: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """A part's JSON without what has its default and need not be said."""
    unsaid = {
        each.name
        for each in dataclasses.fields(part)
        if each.metadata.get("unsaid") and getattr(part, each.name) == each.default
    }
    return {name: value for name, value in data.items() if name not in unsaid}


def _vision(data: Mapping[str, Any]) -> Vision:
    graphs = {int(budget): dict(by_precision) for budget, by_precision in data["graphs"].items()}
    constants = {
        name: _build(Constant, constant) for name, constant in data.get("constants", {}).items()
    }
    tower = _optional(Tower, data.get("tower"))
    vision: Vision = _build(
        Vision, {**data, "graphs": graphs, "constants": constants, "tower": tower}
    )
    return vision


def _medium(data: Mapping[str, Any]) -> MediumSpec:
    parts = {
        "pruning": _build(Pruning, data["pruning"]),
        "vision": _vision(data["vision"]),
        "parity": _build(Parity, data["parity"]),
    }
    medium: MediumSpec = _build(MediumSpec, {**data, **parts})
    return medium


def _optional(cls: type[Any], data: Mapping[str, Any] | None) -> Any:
    return None if data is None else _build(cls, data)


def _check_version(data: Any) -> None:
    """Refuse another major version before anything else is read; a newer minor version only adds
    fields."""
    version = data.get("schema_version") if isinstance(data, dict) else None
    major = SCHEMA_VERSION.partition(".")[0]
    if not isinstance(version, str) or version.partition(".")[0] != major:
        raise ArtifactError(
            f"{MANIFEST_NAME} has schema version {version!r}, this runtime reads {major}.x",
            advice="export again, or use the pocketvlm version that exported it",
        )


def _check_consistency(manifest: Manifest) -> None:
    """The rules between fields, which a JSON Schema cannot express."""
    pruning, decoder = manifest.pruning, manifest.decoder
    named = [name for graphs in manifest.vision.graphs.values() for name in graphs.values()]
    named += [*decoder.embed.values(), *decoder.graphs.values(), *decoder.gguf.values()]
    constants = manifest.vision.constants.values()
    named += [constant.file for constant in constants]
    problems = {
        f"budgets {list(pruning.budgets)} exceed the {pruning.tokens_before} tokens of a picture": (
            max(pruning.budgets) > pruning.tokens_before
        ),
        f"default budget {pruning.default_budget} is not one of {list(pruning.budgets)}": (
            pruning.default_budget not in pruning.budgets
        ),
        "the vision graphs do not match the budgets": set(manifest.vision.graphs)
        != set(pruning.budgets),
        "a graph or GGUF file it names is missing from its files table": not set(named)
        <= set(manifest.files),
        f"a constant of its vision side has another shape than ({decoder.hidden},)": any(
            constant.shape != (decoder.hidden,) for constant in constants
        ),
        "the file of a constant has another size than its shape": any(
            manifest.files[constant.file].bytes != _FLOAT * math.prod(constant.shape)
            for constant in constants
            if constant.file in manifest.files
        ),
        "more layers of its tower attend within windows than there are, or windows have no size": (
            (tower := manifest.vision.tower) is not None
            and tower.windowed_layers > (tower.layers if tower.window else 0)
        ),
        "an extra output of its vision graphs has the name of another": bool(
            set(manifest.vision.extras) & set(VISION_OUTPUTS)
        ),
        f"the decoder reads {', '.join(decoder.extras)}, and the vision graphs give "
        f"{', '.join(manifest.vision.extras) or 'no further outputs'}": (
            not set(decoder.extras) <= set(manifest.vision.extras)
        ),
        "a further input of its decoder graphs has the name of another": bool(
            set(decoder.extras) & set(_DECODER_INPUTS)
        ),
        "FastV is promised of a decoder that reads further features": (
            decoder.fastv is not None and bool(decoder.extras)
        ),
        "the ONNX engine is promised without its graphs": (
            "onnx" in decoder.engines and not (decoder.embed and decoder.graphs)
        ),
        "a decoder's embedding table is missing": not all(
            decoder.tables.get(precision) in decoder.embed for precision in decoder.graphs
        ),
        "the llama.cpp engine is promised without a GGUF file": "llama.cpp" in decoder.engines
        and not decoder.gguf,
        f"positions {decoder.positions!r} are not one of {', '.join(POSITION_AXES)}, which this "
        "runtime has": decoder.positions not in POSITION_AXES,
        f"attention {decoder.attention!r} is not one of {', '.join(ATTENTIONS)}, which this "
        "runtime has": decoder.attention not in ATTENTIONS,
        "FastV is promised with attention that is not causal": (
            decoder.fastv is not None and decoder.attention != CAUSAL
        ),
        f"FastV is promised with {decoder.positions} positions, of which a token has several": (
            decoder.fastv is not None and POSITION_AXES.get(decoder.positions, 1) > 1
        ),
        "its decoder's layers of convolutions are not in order, or more than it has": (
            list(decoder.conv_layers) != sorted(set(decoder.conv_layers))
            or not all(0 <= layer < decoder.layers for layer in decoder.conv_layers)
        ),
        "its decoder's convolutions have no width": (
            bool(decoder.conv_layers) != (decoder.conv_width > 0)
        ),
        "FastV is promised in a decoder with convolutions, which read every token": (
            decoder.fastv is not None and bool(decoder.conv_layers)
        ),
        "llama.cpp cannot drop tokens between two layers, and FastV is promised": (
            "llama.cpp" in decoder.engines and decoder.fastv is not None
        ),
        f"FastV begins at no layer of a decoder with {decoder.layers}": (
            decoder.fastv is not None and decoder.fastv.layer >= decoder.layers
        ),
        f"its default engine {decoder.default_engine} is not one of {list(decoder.engines)}": (
            decoder.default_engine not in decoder.engines
        ),
        "an engine's default precision is not one that it has": not all(
            decoder.default_precisions.get(engine) in files
            for engine, files in decoder.by_engine.items()
            if engine in decoder.engines
        ),
        "a budget has no vision graph of the default precision": not all(
            manifest.vision.default_precision in graphs
            for graphs in manifest.vision.graphs.values()
        ),
        "two media have the same token in their places": decoder.image_token_id
        in {other.image_token_id for other in manifest.media.values()},
        "a token id lies outside the vocabulary": (
            max([decoder.image_token_id, *decoder.eos_token_ids]) >= decoder.vocab
        ),
    }
    for problem, holds in problems.items():
        if holds:
            raise ArtifactError(
                f"{MANIFEST_NAME} contradicts itself: {problem}",
                advice="export or download it again",
            )
