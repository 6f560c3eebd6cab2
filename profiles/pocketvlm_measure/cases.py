"""Knows which configurations of an artifact can be measured, and which were requested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pocketvlm.artifact import Artifact, Manifest, pick_graph, pick_precision
from pocketvlm.artifact.pair import Choice, choose_precision
from pocketvlm.errors import RequestError
from pocketvlm.limits import plain, settle_numbers, whole
from pocketvlm.ort.settings import (
    EngineSettings,
    check_threads,
    physical_cores,
    providers_typed,
)
from pocketvlm.selftest import ensure_trusted

ALL = "all"
_ONNX = "onnx"


@dataclass(frozen=True)
class Case:
    """One configuration of an artifact.

    Attributes:
        budget: visual tokens per picture or tile.
        decoder: the engine.
        decoder_precision: a precision, a GGUF type, or ``A+B``, see `has_precision`.
        vision_precision: of the vision graph.
        threads: of each engine; None leaves it its default.
        context: the longest sequence in tokens; None is the artifact's own.
        max_pixels: pictures are resized to at most so many pixels, see `Artifact.capped`.
        max_tiles: likewise for the parts that pictures are cut into.
        providers: what ONNX Runtime computes with, as they are typed, the preferred one first; none
            is the CPU.
    """

    budget: int
    decoder: str
    decoder_precision: str
    vision_precision: str
    threads: int | None = None
    context: int | None = None
    max_pixels: int | None = None
    max_tiles: int | None = None
    providers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle_numbers(self)
        object.__setattr__(self, "providers", tuple(self.providers))  # a list where JSON was read

    @property
    def n_threads(self) -> int:
        """The number of threads; the default of both engines is one per physical core."""
        return self.threads or physical_cores()

    @property
    def settings(self) -> EngineSettings:
        """How its engines are opened."""
        return EngineSettings(threads=self.threads, providers=providers_typed(self.providers))

    def ensure_trusted(self, artifact: Artifact) -> None:
        """Run the self-test where another provider than the CPU's computes, see
        `pocketvlm.selftest.ensure_trusted`; ``artifact`` as it was opened."""
        ensure_trusted(
            artifact,
            self.settings,
            budget=self.budget,
            vision_precision=self.vision_precision,
            decoder=self.decoder,
            decoder_precision=self.decoder_precision,
        )

    def of(self, artifact: Artifact) -> Artifact:
        """The artifact with the case's longest sequence and its caps on pictures."""
        shortened = artifact.shortened(self.context)
        return shortened.capped(max_pixels=self.max_pixels, max_tiles=self.max_tiles)

    @property
    def family(self) -> tuple[str, str, str, int]:
        """All but the budget: cases of one family differ in nothing else."""
        return self.decoder, self.decoder_precision, self.vision_precision, self.n_threads

    def __str__(self) -> str:
        return (
            f"{self.budget} tokens, {self.decoder} {self.decoder_precision}, vision "
            f"{self.vision_precision}, {self.n_threads} thread{'s' if self.n_threads > 1 else ''}"
            + "".join(f", {provider}" for provider in self.providers)
        )


def has_precision(manifest: Manifest, engine: str, precision: str) -> bool:
    """Whether an engine of the artifact can decode in a precision.

    ONNX Runtime also takes ``A+B``: prefill in A, decode in B.
    """
    parts = precision.split("+") if engine == _ONNX else [precision]
    return set(parts) <= set(manifest.decoder.by_engine.get(engine, {}))


def leaves_choice(
    manifest: Manifest, decoders: Sequence[str], decoder_precisions: Sequence[str]
) -> bool:
    """Whether what is requested, see `sweep`, leaves open if two decoders of ONNX Runtime answer
    together."""
    engines = decoders or (manifest.decoder.default_engine,)
    return (
        bool(manifest.decoder.pair)
        and not decoder_precisions
        and not {_ONNX, ALL}.isdisjoint(engines)
    )


def sweep(
    manifest: Manifest,
    *,
    budgets: Sequence[int] = (),
    decoders: Sequence[str] = (),
    decoder_precisions: Sequence[str] = (),
    vision_precisions: Sequence[str] = (),
    threads: Sequence[int | None] = (None,),
    context: int | None = None,
    max_pixels: int | None = None,
    max_tiles: int | None = None,
    providers: Sequence[str] = (),
    memory_limit: int | None = None,
    chosen: Choice | None = None,
) -> list[Case]:
    """Every combination of what is requested, the most visual tokens first.

    Args:
        manifest: of the artifact.
        budgets: visual tokens per picture or tile; none means those that were exported.
        decoders: engines; none is the default one, ``("all",)`` each that the artifact has.
        decoder_precisions: none is each engine's default, or its pair where memory allows both, see
            `choose_precision`; ``("all",)`` all. Of a list every engine takes what it has, see
            `has_precision`.
        vision_precisions: none is the artifact's default, ``("all",)`` all.
        threads: for each engine.
        context: the longest sequence, for which llama.cpp sets memory aside.
        max_pixels: see `Case`.
        max_tiles: see `Case`.
        providers: see `Case`.
        memory_limit: MB that a pair of decoders must fit into, see `choose_precision`.
        chosen: what ONNX Runtime's decoder answers in by default, where that is settled already.

    Raises:
        RequestError: something that the artifact does not have; its ``setting`` names the option.
    """
    EngineSettings(providers=providers_typed(providers))  # refuses what is not installed
    threads = list(map(plain, threads))
    for number in threads:
        check_threads(number)
    for name, value in (("context", context), ("max_pixels", max_pixels), ("max_tiles", max_tiles)):
        if value is not None:
            whole(value, name, least=1)
    if memory_limit is not None:
        memory_limit = whole(memory_limit, "memory_limit", least=0)
    spec = manifest.decoder
    given = {whole(budget, "budget") for budget in budgets}
    requested = sorted(given or manifest.pruning.budgets, reverse=True)
    engines = _chosen(decoders, spec.engines, spec.default_engine, "decoder engine", "decoder")
    _check_decoder_precisions(manifest, engines, decoder_precisions)
    decoder_pairs = [
        (engine, precision)
        for engine in engines
        for precision in (
            [chosen.precision]
            if chosen is not None and engine == _ONNX and not decoder_precisions
            else _of_engine(manifest, engine, decoder_precisions, memory_limit)
        )
    ]
    visions = _vision_precisions(manifest, requested, vision_precisions)
    return [
        Case(
            budget,
            engine,
            precision,
            vision,
            number,
            context,
            max_pixels,
            max_tiles,
            tuple(providers),
        )
        for number in dict.fromkeys(threads)
        for engine, precision in decoder_pairs
        for vision in visions
        for budget in requested
    ]


def _vision_precisions(
    manifest: Manifest, budgets: Sequence[int], requested: Sequence[str]
) -> list[str]:
    """Precisions that serve all budgets; refuses a budget or a precision that nothing serves."""
    graphs = {budget: manifest.vision.graphs[pick_graph(manifest, budget)] for budget in budgets}
    present, default = list(graphs[budgets[0]]), manifest.vision.default_precision
    what, setting = "precision of the vision graph", "vision_precision"
    chosen = _chosen(requested, present, default, what, setting)
    for budget, by_precision in graphs.items():
        for precision in chosen:
            what = f"vision graph for budget {budget}"
            pick_precision(by_precision, precision, what, setting=setting)
    return chosen


def _check_decoder_precisions(
    manifest: Manifest, engines: Sequence[str], requested: Sequence[str]
) -> None:
    """Refuse a precision that none of the engines has."""
    present = dict.fromkeys(
        name for engine in engines for name in manifest.decoder.by_engine[engine]
    )
    parts = [part for name in requested for part in name.split("+")]
    _chosen(parts, list(present), "", "precision of the decoder", "decoder_precision")


def _of_engine(
    manifest: Manifest, engine: str, requested: Sequence[str], memory_limit: int | None
) -> list[str]:
    """The requested precisions that an engine has; refuses if there is none."""
    present = list(manifest.decoder.by_engine[engine])
    if not requested:
        return [choose_precision(manifest, engine, memory_limit).precision]
    if tuple(requested) == (ALL,):
        return present
    chosen = [name for name in dict.fromkeys(requested) if has_precision(manifest, engine, name)]
    if not chosen:
        raise RequestError(
            f"decoder engine {engine} has no precision {', '.join(requested)}",
            expected=" or ".join(present),
            setting="decoder_precision",
        )
    return chosen


def _chosen(
    requested: Sequence[str], present: Sequence[str], default: str, what: str, setting: str
) -> list[str]:
    if not requested:
        return [default]
    if tuple(requested) == (ALL,):
        return list(present)
    if unknown := [name for name in requested if name not in present]:
        raise RequestError(
            f"no {what} {unknown[0]!r} in this artifact",
            expected=" or ".join(present),
            setting=setting,
        )
    return list(dict.fromkeys(requested))
