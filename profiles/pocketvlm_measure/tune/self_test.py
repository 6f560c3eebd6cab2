"""Knows what the self-test of an artifact is of a smaller one that was made of it, the same for
less, measured again, or none; and how what other clients read is written again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pocketvlm.artifact import Artifact, Manifest
from pocketvlm.artifact.integrity import sha256_of
from pocketvlm.artifact.specs import FileEntry, SelfTest
from pocketvlm.errors import PocketVLMError
from pocketvlm.selftest.expected import Reader
from pocketvlm.selftest.form import to_json
from pocketvlm.selftest.reading import read_expected
from pocketvlm_measure.tune.exporting import GROUP, NAME


def narrowed(artifact: Artifact, smaller: Manifest) -> str | None:
    """Return the text of the self-test's file for what is left, in which no number is changed.

    None where there is none, or its answer is not one of the smaller artifact: it was read behind
    a graph that is left out, the one of the default budget.

    Raises:
        ArtifactError: the self-test is damaged.
    """
    default = artifact.manifest.pruning.default_budget
    if artifact.manifest.self_test is None or smaller.pruning.default_budget != default:
        return None
    expected = read_expected(artifact)
    vision, answer = expected.vision[default], expected.answer
    left = set(smaller.vision.graphs[default])
    bounds = {name: each for name, each in vision.bounds.items() if name in left}
    readers = [reader for reader in answer.bounds if _stays(reader, smaller, left)]
    if not bounds or not readers:
        return None
    return to_json(
        dataclasses.replace(
            expected,
            vision={default: dataclasses.replace(vision, bounds=bounds)},
            answer=dataclasses.replace(
                answer,
                bounds={reader: answer.bounds[reader] for reader in readers},
                answers={reader: answer.answers[reader] for reader in readers},
            ),
        )
    )


def _stays(reader: Reader, smaller: Manifest, visions: set[str]) -> bool:
    precisions = smaller.decoder.by_engine.get(reader.engine, {})
    return (
        reader.engine in smaller.decoder.engines
        and reader.precision in precisions
        and reader.vision in visions
    )


def with_self_test(manifest: Manifest, text: str | None) -> Manifest:
    """Return the manifest with the entry for such a ``text``, or without the self-test."""
    stated = manifest.self_test
    if stated is None:
        return manifest
    files = dict(manifest.files)
    if text is None:
        for name in (stated.file, *stated.pictures):
            files.pop(name, None)
        return dataclasses.replace(manifest, files=files, self_test=None)
    data = text.encode()
    files[stated.file] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    return dataclasses.replace(manifest, files=files)


def measured_anew(folder: Path, manifest: Manifest) -> Manifest:
    """Have the exporter that is installed write a self-test into ``folder``, whose manifest is not
    written yet. Returns the manifest with it, or as it was where none is installed or it cannot."""
    written = _by_exporter("self_test", folder, manifest)
    if written is None:
        return manifest
    stated = SelfTest(**written)
    listed = _with_files(folder, manifest, (stated.file, *stated.pictures))
    return dataclasses.replace(listed, self_test=stated)


def described(folder: Path, manifest: Manifest) -> Manifest:
    """Have the exporter that is installed write what other clients read of an artifact; as
    `measured_anew`."""
    written = _by_exporter("describe", folder, manifest)
    return manifest if written is None else _with_files(folder, manifest, written)


def _by_exporter(function: str, folder: Path, manifest: Manifest) -> Any:
    """What a function of the exporter gives; None where none is installed or it cannot."""
    try:
        (entry,) = entry_points(group=GROUP, name=NAME)
        return getattr(entry.load(), function)(str(folder), manifest.to_json())
    except (ImportError, ValueError, AttributeError, PocketVLMError):
        return None


def _with_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> Manifest:
    """Return the manifest with files of the folder in its table."""
    entries = {
        name: FileEntry((folder / name).stat().st_size, sha256_of(folder / name)) for name in names
    }
    return dataclasses.replace(manifest, files={**manifest.files, **entries})
