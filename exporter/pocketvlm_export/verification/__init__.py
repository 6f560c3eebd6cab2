"""The parity gate: an artifact is published only when it does what its checkpoint does in transformers."""

import dataclasses
from pathlib import Path
from typing import Any

from pocketvlm import PocketVLMError
from pocketvlm.artifact import Artifact
from pocketvlm_export.loading import Checkpoint, open_checkpoint
from pocketvlm_export.verification.gate import ParityError, check_parity, failures

__all__ = ["ParityError", "check_parity", "failures", "verify_against"]


def verify_against(artifact_dir: Path, model: str) -> dict[str, Any]:
    """Hold a published artifact against a checkpoint again; returns the figures of the gate.

    Args:
        artifact_dir: a folder written by ``pocketvlm export``.
        model: the checkpoint it was exported from: folder, Hub id or ``demo``.

    Raises:
        ParityError: they differ.
        PocketVLMError: the artifact or the checkpoint cannot be opened, or they are of different shape.
    """
    artifact = Artifact.open(artifact_dir)
    # The same commit, where one was recorded: a branch moves on.
    revision = artifact.manifest.source.commit if not Path(model).expanduser().is_dir() else None
    checkpoint = open_checkpoint(model, revision)
    _check_same_shape(artifact, checkpoint)
    parity = check_parity(checkpoint, artifact)
    if not parity.passed:
        raise ParityError(f"{artifact_dir} differs from {model}: {failures(parity)}; export it again")
    return dataclasses.asdict(parity)


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
            raise PocketVLMError(
                f"{artifact.root} was not exported from {checkpoint.source.model}: {name} is {ours} in the artifact "
                f"and {theirs} in the checkpoint"
            )
