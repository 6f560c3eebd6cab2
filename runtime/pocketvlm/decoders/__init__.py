"""Knows which module holds each decoder engine, and opens the one that is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.base import Decoder
from pocketvlm.errors import RequestError
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings

# One line for each engine: its name in the manifest, and "module:class" with an `open` as in
# `open_decoder`.
ENGINES = {
    "onnx": "pocketvlm.decoders.onnx:OnnxDecoder",
    "llama.cpp": "pocketvlm.decoders.llama_cpp:LlamaCppDecoder",
}
# What takes the place of the first where the graphs drop visual tokens on their way.
STAGED = "pocketvlm.decoders.staged:StagedDecoder"
# And where they say what attention pays to each token.
SCORING = "pocketvlm.decoders.scoring:ScoringDecoder"


def open_decoder(
    artifact: Artifact,
    *,
    engine: str | None = None,
    precision: str | None = None,
    settings: EngineSettings = DEFAULT_SETTINGS,
) -> Decoder:
    """Open the artifact's decoder.

    Args:
        artifact: an opened artifact.
        engine: a name from the manifest's engines; None is the artifact's default.
        precision: as named in the manifest; None is the artifact's default.
        settings: threads, providers, prepacking.

    Raises:
        PocketVLMError: an engine that the artifact or this runtime does not have.
    """
    requested = chosen_engine(artifact, engine)
    decoder: Decoder = engine_class(artifact, requested).open(
        artifact, precision=precision, settings=settings
    )
    return decoder


def chosen_engine(artifact: Artifact, engine: str | None = None) -> str:
    """The engine that `open_decoder` opens; raises `PocketVLMError` as it does."""
    present = artifact.manifest.decoder.engines
    requested = engine or artifact.manifest.decoder.default_engine
    if requested not in present:
        raise RequestError(
            f"decoder engine {requested!r} is not in this artifact, which has {', '.join(present)}",
            advice="export it with that",
            setting="decoder",
        )
    if requested not in ENGINES:
        raise RequestError(
            f"decoder engine {requested!r} is unknown to this runtime, which has "
            f"{', '.join(ENGINES)}",
            advice="update pocketvlm",
            setting="decoder",
        )
    return requested


def engine_class(artifact: Artifact, engine: str) -> Any:
    """The class behind an engine of this artifact, a key of `ENGINES`."""
    staged = engine == "onnx" and bool(artifact.manifest.decoder.stages)
    target = STAGED if staged else ENGINES[engine]
    if engine == "onnx" and artifact.manifest.decoder.scores:
        target = SCORING
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
