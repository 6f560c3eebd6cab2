"""Knows which module holds each decoder engine, and opens the one that is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from pocketvlm.artifact import Artifact
from pocketvlm.artifact.pair import Choice, choose_precision
from pocketvlm.decoders.base import Decoder
from pocketvlm.errors import RequestError
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings


@dataclass(frozen=True)
class Engine:
    """What is to be known of an engine before its module is imported.

    Attributes:
        decoder: "module:class" with an `open` as in `open_decoder`.
        needs: the module that it needs beside what is always installed; empty for none.
        reads_providers: whether execution providers compute it, see `EngineSettings`.
        maps_weights: whether weights stay in mapped files, so that opening it late saves nothing.
        waits_busily: whether its threads wait for each other at every operation, which on a busy
            machine takes minutes.
    """

    decoder: str
    needs: str = ""
    reads_providers: bool = False
    maps_weights: bool = False
    waits_busily: bool = False


# One line for each engine: its name in the manifest, and what it is.
ENGINES = {
    "onnx": Engine("pocketvlm.decoders.onnx:OnnxDecoder", reads_providers=True),
    "llama.cpp": Engine(
        "pocketvlm.decoders.llama_cpp:LlamaCppDecoder",
        needs="llama_cpp",
        maps_weights=True,
        waits_busily=True,
    ),
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
        precision: as named in the manifest; None is the artifact's default, or its pair where
            memory allows both, see `choose_precision`.
        settings: threads, providers, prepacking.

    Raises:
        PocketVLMError: an engine that the artifact or this runtime does not have.
    """
    engine, choice = choose_decoder(artifact, engine=engine, precision=precision, settings=settings)
    decoder: Decoder = engine_class(artifact, engine).open(
        artifact, precision=choice.precision, settings=settings
    )
    return decoder


def choose_decoder(
    artifact: Artifact,
    *,
    engine: str | None = None,
    precision: str | None = None,
    settings: EngineSettings = DEFAULT_SETTINGS,
) -> tuple[str, Choice]:
    """Return the engine that `open_decoder` opens, and in which precision and why."""
    present = artifact.manifest.decoder.engines
    requested = engine or artifact.manifest.decoder.default_engine
    if requested not in present:
        raise RequestError(
            f"decoder engine {requested!r} is not in this artifact, which has {', '.join(present)}",
            advice="export again with --decoder both" if requested in ENGINES else "choose another",
            setting="decoder",
        )
    if requested not in ENGINES:
        raise RequestError(
            f"decoder engine {requested!r} is unknown to this runtime, which has "
            f"{', '.join(ENGINES)}",
            advice="update pocketvlm",
            setting="decoder",
        )
    if precision is not None:
        return requested, Choice(precision, "asked for")
    return requested, choose_precision(artifact.manifest, requested, settings.memory_limit)


def is_installed(engine: str) -> bool:
    """Whether what an engine needs is installed; one that this runtime does not know is not."""
    if engine not in ENGINES:
        return False
    module = ENGINES[engine].needs
    return not module or importlib.util.find_spec(module) is not None


def engine_class(artifact: Artifact, engine: str) -> Any:
    """The class behind an engine of this artifact, a key of `ENGINES`."""
    staged = engine == "onnx" and bool(artifact.manifest.decoder.stages)
    target = STAGED if staged else ENGINES[engine].decoder
    if engine == "onnx" and artifact.manifest.decoder.scores:
        target = SCORING
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
