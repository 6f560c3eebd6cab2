"""The parity gate: an artifact is published only when it does what its checkpoint does in
transformers."""

import dataclasses
from pathlib import Path
from typing import Any

from pocketvlm.artifact import Artifact
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.files import user_path
from pocketvlm.files.interrupts import heeded, repeated
from pocketvlm.layouts import media_read
from pocketvlm_export.caps import Caps
from pocketvlm_export.gguf_types import GGUF_TYPES
from pocketvlm_export.loading import Checkpoint, open_checkpoint, reading
from pocketvlm_export.memory import collecting_own_garbage
from pocketvlm_export.precisions import PRECISIONS
from pocketvlm_export.pruning import pruner_names
from pocketvlm_export.verification.arrangement import layout_of
from pocketvlm_export.verification.gate import (
    ParityError,
    check_parity,
    failures,
    vision_alone,
)

__all__ = [
    "ParityError",
    "as_exported",
    "check_parity",
    "failures",
    "verify_against",
    "vision_alone",
]


@heeded()
@repeated()
@collecting_own_garbage()
def verify_against(artifact_dir: Path, model: str) -> dict[str, Any]:
    """Hold a published artifact against a checkpoint again; returns the figures of the gate.

    Args:
        artifact_dir: a folder written by ``pocketvlm export``.
        model: the checkpoint it was exported from: folder, Hub id or ``demo``.

    Raises:
        ParityError: they differ.
        PocketVLMError: the artifact or the checkpoint cannot be opened, they are of different
            shape, or the artifact has a method or a precision that this exporter does not know.
    """
    artifact = Artifact.open(artifact_dir)
    _check_names(artifact)
    source = artifact.manifest.source
    # The same commit, where one was recorded: a branch moves on. It is not a commit of any other
    # repository.
    same = model == source.model and not user_path(model).is_dir()
    opened = open_checkpoint(model, source.commit if same else None)
    own, *others = media_read(artifact.manifest)
    result = _held_against(artifact, reading(opened, own), artifact_dir, model)
    for medium in others:
        part = vision_alone(artifact.reading(medium))
        figures = _held_against(part, reading(opened, medium), artifact_dir, model)
        result.setdefault("media", {})[medium] = figures
    return result


def _held_against(
    artifact: Artifact, checkpoint: Checkpoint, artifact_dir: Path, model: str
) -> dict[str, Any]:
    """The figures of one medium; raises as `verify_against`."""
    checkpoint = as_exported(checkpoint, artifact)
    _check_same_shape(artifact, checkpoint)
    parity = check_parity(checkpoint, artifact)
    if not parity.passed:
        raise ParityError(
            f"{artifact_dir} differs from {model} ({failures(parity)})", advice="export it again"
        )
    return dataclasses.asdict(parity)


def as_exported(checkpoint: Checkpoint, artifact: Artifact) -> Checkpoint:
    """Return a checkpoint for pictures of the size and layout that an artifact has, and no larger
    than it takes."""
    family, vision = checkpoint.family, artifact.manifest.vision
    spec = checkpoint.spec
    if vision.made_for is not None and vision.image_size is not None:
        spec = family.resized(spec, vision.image_size, checkpoint.source.folder)
    spec = family.capped(spec, Caps.of(vision.caps))
    layout = layout_of(spec, artifact)
    return dataclasses.replace(checkpoint, spec=spec.under(layout) if layout else spec)


def _check_names(artifact: Artifact) -> None:
    """Refuse what another version of the exporter may have written."""
    manifest = artifact.manifest
    precisions = [
        *manifest.decoder.graphs,
        *(name for graphs in manifest.vision.graphs.values() for name in graphs),
    ]
    for what, names, supported in (
        ("pruning method", [manifest.pruning.method], pruner_names()),
        ("precision", precisions, PRECISIONS),
        ("GGUF type", manifest.decoder.gguf, GGUF_TYPES),
    ):
        for name in names:
            if name not in supported:
                raise ArtifactError(
                    f"{artifact.root} has the {what} {name!r}, which this exporter cannot check",
                    expected=f"one of {', '.join(supported)}",
                    advice="use the version that exported it",
                )


def _check_same_shape(artifact: Artifact, checkpoint: Checkpoint) -> None:
    manifest, spec = artifact.manifest, checkpoint.spec
    figures = {
        "visual tokens": (manifest.pruning.tokens_before, spec.vision.tokens),
        "image size": (manifest.vision.image_size, spec.vision.image_size),
        "decoder layers": (manifest.decoder.layers, spec.decoder.layers),
        "decoder width": (manifest.decoder.hidden, spec.decoder.hidden),
        "vocabulary": (manifest.decoder.vocab, spec.decoder.vocab),
    }
    for name, (ours, theirs) in figures.items():
        if ours != theirs:
            raise RequestError(
                f"{artifact.root} was not exported from {checkpoint.source.model} ({name}: {ours} "
                f"in the artifact, {theirs} in the checkpoint)",
                advice="give the checkpoint that it was exported from",
                setting="against",
            )
