"""Knows which configurations of an artifact there are to measure, and which were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pocketvlm.artifact import Manifest, pick_graph, pick_precision
from pocketvlm.errors import RequestError
from pocketvlm.ort.settings import EngineSettings, check_threads, physical_cores

ALL = "all"


@dataclass(frozen=True)
class Case:
    """One configuration; ``threads`` is None where each engine takes its own default, ``context``
    the artifact's."""

    budget: int
    decoder: str
    decoder_precision: str
    vision_precision: str
    threads: int | None = None
    context: int | None = None

    @property
    def n_threads(self) -> int:
        """The threads at work: both engines' default is a physical core each."""
        return self.threads or physical_cores()

    @property
    def settings(self) -> EngineSettings:
        """How its engines are opened."""
        return EngineSettings(threads=self.threads)

    @property
    def family(self) -> tuple[str, str, str, int]:
        """All but the budget: cases of one family differ in nothing else."""
        return self.decoder, self.decoder_precision, self.vision_precision, self.n_threads

    def __str__(self) -> str:
        return (
            f"{self.budget} tokens, {self.decoder} {self.decoder_precision}, vision "
            f"{self.vision_precision}, {self.n_threads} thread{'s' if self.n_threads > 1 else ''}"
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
) -> list[Case]:
    """Every combination of what is asked for, the most visual tokens first.

    Args:
        manifest: of the artifact.
        budgets: visual tokens a picture; none means those that were exported.
        decoders: engines; none is the one that answers by default, ``("all",)`` each that the
            artifact has.
        decoder_precisions: none is each engine's default, ``("all",)`` all. Of a list every engine
            takes what it has; ``A+B`` reads in A and answers in B.
        vision_precisions: none is the artifact's default, ``("all",)`` all.
        threads: for each engine.
        context: the longest sequence, for which llama.cpp sets memory aside.

    Raises:
        PocketVLMError: something that the artifact does not have.
    """
    for number in threads:
        check_threads(number)
    spec = manifest.decoder
    wanted = budgets or manifest.pruning.budgets
    engines = _chosen(decoders, spec.engines, spec.default_engine, "decoder engine")
    precisions = {engine: spec.by_engine[engine] for engine in engines}
    everything = dict.fromkeys(name for names in precisions.values() for name in names)
    _chosen(_parts(decoder_precisions), list(everything), "", "precision of the decoder")
    pairs = [
        (engine, precision)
        for engine, present in precisions.items()
        for precision in _of_engine(
            engine, decoder_precisions, list(present), spec.default_precisions[engine]
        )
    ]
    return [
        Case(budget, engine, precision, seen, number, context)
        for number in dict.fromkeys(threads)
        for engine, precision in pairs
        for seen in _vision(manifest, wanted, vision_precisions)
        for budget in sorted(set(wanted), reverse=True)
    ]


def _vision(manifest: Manifest, budgets: Iterable[int], asked: Sequence[str]) -> list[str]:
    """Precisions that serve all budgets; refuses a budget or a precision that nothing serves."""
    graphs = {budget: manifest.vision.graphs[pick_graph(manifest, budget)] for budget in budgets}
    first = next(iter(graphs.values()))
    default = manifest.vision.default_precision
    chosen = _chosen(asked, list(first), default, "precision of the vision graph")
    for budget, by_precision in graphs.items():
        for precision in chosen:
            pick_precision(
                by_precision,
                precision,
                f"vision graph for budget {budget}",
                setting="vision_precision",
            )
    return chosen


def _parts(precisions: Sequence[str]) -> list[str]:
    return [part for name in precisions for part in name.split("+")]


def _of_engine(engine: str, asked: Sequence[str], present: list[str], default: str) -> list[str]:
    if not asked:
        return [default]
    if tuple(asked) == (ALL,):
        return present
    # ONNX Runtime reads in one precision and answers in another where both are named: A+B.
    found = [
        name
        for name in dict.fromkeys(asked)
        if set(name.split("+") if engine == "onnx" else [name]) <= set(present)
    ]
    if not found:
        raise RequestError(
            f"decoder engine {engine} has no precision {', '.join(asked)}",
            advice=f"this artifact has {', '.join(present)}",
        )
    return found


def _chosen(asked: Sequence[str], present: Sequence[str], default: str, what: str) -> list[str]:
    if not asked:
        return [default]
    if tuple(asked) == (ALL,):
        return list(present)
    if unknown := [name for name in asked if name not in present]:
        raise RequestError(
            f"no {what} {unknown[0]!r} in this artifact, which has {', '.join(present)}"
        )
    return list(dict.fromkeys(asked))
