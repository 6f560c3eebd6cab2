"""Knows which graph on which device made the features of a picture, so that those of two are never
taken for each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pocketvlm.artifact import Artifact
from pocketvlm.artifact.integrity import graph_digest
from pocketvlm.errors import ArtifactError
from pocketvlm.ort.settings import CPU_PROVIDER
from pocketvlm.vision.encoder import VisionEncoder


@dataclass(frozen=True)
class FeatureSource:
    """The graph that makes the features, and their shape: a cache never mixes those of two graphs.

    Attributes:
        name: the content of the vision graph, its precision and budget, as part of a file name;
            not what an artifact states of itself, which any other could state too.
        tokens: k, the tokens of a tile at most.
        hidden: the width of a token.
        nested: see `VisionFeatures`.
        extras: names of its further outputs.
    """

    name: str
    tokens: int
    hidden: int
    nested: bool
    extras: tuple[str, ...] = ()


def feature_source(artifact: Artifact, encoder: VisionEncoder, *, kept: bool) -> FeatureSource:
    """What makes the features. Where they are ``kept`` in a folder, those of other graphs lie
    beside them, so that the graph's content names it."""
    manifest = artifact.manifest
    name = manifest.artifact_id
    if kept:
        graph = manifest.vision.graphs[encoder.budget][encoder.precision]
        try:
            name = graph_digest(artifact.root, graph, manifest.files)
        except OSError as error:
            raise ArtifactError(
                f"{artifact.root / graph} cannot be read ({error.strerror})",
                advice="copy or export it again",
            ) from error
    computed = "" if encoder.provider == CPU_PROVIDER else f"-{_device(encoder)}"
    # Where the prompt decides what is kept, features of all tokens are: whatever the budget.
    every = manifest.pruning.tokens_before if encoder.reads_prompt else None
    made = "all" if every else f"k{encoder.budget}"
    return FeatureSource(
        f"{name[:32]}-{made}-{encoder.precision}{computed}",
        every or encoder.budget,
        manifest.decoder.hidden,
        encoder.nested and not every,
        manifest.vision.extras,
    )


def _device(encoder: VisionEncoder) -> str:
    """What computes features, by provider and options: two devices of one provider differ."""
    options = sorted((name, str(value)) for name, value in encoder.provider_options.items())
    if not options:
        return encoder.provider
    return f"{encoder.provider}-{hashlib.sha256(repr(options).encode()).hexdigest()[:8]}"
