"""Knows pocketvlm.json as a whole: read, checked and written; knows nothing of the files that it
lists."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import fastjsonschema

from pocketvlm.artifact.manifest_rules import contradictions
from pocketvlm.artifact.specs import (
    Constant,
    DecoderSpec,
    FileEntry,
    Generation,
    MediumSpec,
    Parity,
    PictureText,
    Pruning,
    SelfTest,
    Source,
    Tower,
    Vision,
)
from pocketvlm.artifact.stages import Stage
from pocketvlm.errors import ArtifactError
from pocketvlm_targets.text import parse_json

SCHEMA_VERSION = "2.0"
MANIFEST_NAME = "pocketvlm.json"


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
    self_test: SelfTest | None = None
    schema_version: str = SCHEMA_VERSION

    def bytes_of(self, graph: str) -> int:
        """Bytes of a graph and the data file that bears its name; further budgets share the first
        one's data file."""
        names = (graph, f"{graph}_data")
        return sum(self.files[name].bytes for name in names if name in self.files)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse and validate; raises `ArtifactError` naming the field that is wrong."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ArtifactError(
                f"{MANIFEST_NAME} is not valid JSON ({error})", advice="export or download it again"
            ) from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Validate against the JSON Schema and the rules it cannot express, then build; raises
        `PocketVLMError`."""
        _check_version(data)
        _check_successors(data)
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
                    "stages": _stages(data["decoder"]),
                    "picture_text": _optional(PictureText, data["decoder"].get("picture_text")),
                },
            ),
            media={name: _medium(medium) for name, medium in data.get("media", {}).items()},
            generation=_build(Generation, data.get("generation", {})),
            parity=_build(Parity, data["parity"]),
            files={name: _build(FileEntry, entry) for name, entry in data["files"].items()},
            created_by=dict(data.get("created_by", {})),
            requires=dict(data.get("requires", {})),
            self_test=_optional(SelfTest, data.get("self_test")),
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
            self_test=other.self_test,
            media={},
        )

    @property
    def passed(self) -> bool:
        """Whether every medium passed its parity check."""
        return self.parity.passed and all(other.parity.passed for other in self.media.values())

    @property
    def content_id(self) -> str:
        """SHA-256 (hex) of the files table, whose checksums were compared with the files when the
        artifact was opened: two artifacts may state one ``artifact_id``, but not this."""
        return files_digest(self.files)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, in the order people read it."""
        data = dataclasses.asdict(self)
        order = ["schema_version", "artifact_id", "created_by", "source", "pruning", "vision"]
        order += ["decoder", *(["media"] if self.media else [])]  # which most have not
        order += ["generation", "parity", *(["self_test"] if self.self_test else [])]
        order += ["requires", "files"]
        data["decoder"] = _said(self.decoder, data["decoder"])
        data["media"] |= {
            name: _said(each, data["media"][name]) for name, each in self.media.items()
        }
        read = [(data, self.vision, self.pruning)]
        read += [
            (data["media"][name], each.vision, each.pruning) for name, each in self.media.items()
        ]
        for part, vision, pruning in read:
            part["pruning"] = _said(pruning, part["pruning"])
            part["vision"] = _said(vision, part["vision"])
            for name in {"graphs", "selectors"} & part["vision"].keys():
                graphs = part["vision"][name]
                part["vision"][name] = {str(budget): graphs[budget] for budget in graphs}
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
        if each.metadata.get("unsaid") and getattr(part, each.name) == _default(each)
    }
    return {name: value for name, value in data.items() if name not in unsaid}


def _default(each: dataclasses.Field[Any]) -> Any:
    factory = each.default_factory
    return each.default if factory is dataclasses.MISSING else factory()


def _vision(data: Mapping[str, Any]) -> Vision:
    graphs = {int(budget): dict(by_precision) for budget, by_precision in data["graphs"].items()}
    constants = {
        name: _build(Constant, constant) for name, constant in data.get("constants", {}).items()
    }
    selectors = {int(budget): file for budget, file in data.get("selectors", {}).items()}
    tower = _optional(Tower, data.get("tower"))
    parts = {"graphs": graphs, "constants": constants, "tower": tower, "stages": _stages(data)}
    vision: Vision = _build(Vision, {**data, **parts, "selectors": selectors})
    return vision


def _stages(data: Mapping[str, Any]) -> list[Stage]:
    return [_build(Stage, stage) for stage in data.get("stages", ())]


def _medium(data: Mapping[str, Any]) -> MediumSpec:
    parts = {
        "pruning": _build(Pruning, data["pruning"]),
        "vision": _vision(data["vision"]),
        "parity": _build(Parity, data["parity"]),
        "self_test": _optional(SelfTest, data.get("self_test")),
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


def _check_successors(data: Mapping[str, Any]) -> None:
    """Refuse a field that another took the place of: to ignore it would answer otherwise."""
    decoder = data.get("decoder")
    if isinstance(decoder, dict) and decoder.get("fastv") is not None:
        raise ArtifactError(
            f"{MANIFEST_NAME} states decoder.fastv",
            expected="decoder.stages, of which that is one",
            advice="export again",
        )


def _check_consistency(manifest: Manifest) -> None:
    for problem in contradictions(manifest):
        raise ArtifactError(
            f"{MANIFEST_NAME} contradicts itself: {problem}",
            advice="export or download it again",
        )
