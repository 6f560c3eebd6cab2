"""Knows which checks a self-test has, and which of them a loaded model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pocketvlm.artifact import Artifact, Manifest, pick_graph
from pocketvlm.decoders import ENGINES, is_installed
from pocketvlm.errors import ArtifactError
from pocketvlm.layouts import Medium, budget_beside, media_read
from pocketvlm.selftest.expected import Expected, Reader
from pocketvlm.selftest.reading import read_expected


@dataclass(frozen=True)
class Checks:
    """Some checks of one medium.

    Attributes:
        medium: pictures or clips.
        part: the artifact as one that reads that medium alone.
        expected: what its graphs should give.
        vision: (budget, precision) of vision graphs.
        readers: decoders behind vision graphs of the default budget.
    """

    medium: Medium
    part: Artifact
    expected: Expected
    vision: Sequence[tuple[int, str]] = ()
    readers: Sequence[Reader] = field(default=())

    @property
    def names(self) -> list[str]:
        """What each is called, the same in every process."""
        of_vision = [vision_check(self.medium, k, precision) for k, precision in self.vision]
        return [*of_vision, *(reader_check(self.medium, reader) for reader in self.readers)]


def vision_check(medium: Medium, budget: int, precision: str) -> str:
    """The name of a vision graph's check."""
    return f"{medium} vision k={budget} {precision}"


def reader_check(medium: Medium, reader: Reader) -> str:
    """The name of a decoder's check."""
    return f"{medium} {reader.engine} {reader.precision} behind vision {reader.vision}"


def every_check(artifact: Artifact) -> list[Checks]:
    """All checks of an artifact whose engines are installed, medium by medium; raises
    `ArtifactError` where a self-test is missing or damaged."""
    checks = []
    for medium, part in _parts(artifact).items():
        expected, manifest = read_expected(part), part.manifest
        graphs = [
            (budget, precision)
            for budget, by_precision in manifest.vision.graphs.items()
            for precision in by_precision
        ]
        readers = [
            Reader(engine, precision, vision)
            for engine in filter(is_installed, manifest.decoder.engines)
            for precision in manifest.decoder.by_engine.get(engine, {})
            for vision in manifest.vision.graphs[manifest.pruning.default_budget]
        ]
        checks.append(_checked(Checks(medium, part, expected, graphs, readers)))
    return checks


def checks_of(
    artifact: Artifact,
    *,
    budget: int | None = None,
    vision_precision: str | None = None,
    engine: str | None = None,
    decoder_precision: str | None = None,
) -> list[Checks]:
    """The checks of the graphs that a model loaded so would answer with; arguments as of
    `pocketvlm.VLM.load`. A decoder that no execution provider computes has none. A
    precision that there is not has none either: it is refused where its graph is opened."""
    own = artifact.manifest.pruning.tokens_before
    checks: list[Checks] = []
    for medium, part in _parts(artifact).items():
        manifest, within = part.manifest, budget
        if budget is not None and checks:  # of a further medium
            within = budget_beside(budget, own, manifest.pruning.tokens_before)
        k = pick_graph(manifest, within)
        vision = vision_precision or manifest.vision.default_precision
        if vision in manifest.vision.graphs[k]:
            readers = _readers(manifest, engine, decoder_precision, vision)
            expected = read_expected(part)
            checks.append(_checked(Checks(medium, part, expected, [(k, vision)], readers)))
    return checks


def _readers(
    manifest: Manifest, engine: str | None, precision: str | None, vision: str
) -> list[Reader]:
    engine = engine or manifest.decoder.default_engine
    if engine not in ENGINES or not ENGINES[engine].reads_providers:
        return []
    precision = precision or manifest.decoder.default_precisions[engine]
    return [
        Reader(engine, each, vision)
        for each in dict.fromkeys(precision.split("+"))
        if each in manifest.decoder.by_engine.get(engine, {})
    ]


def _parts(artifact: Artifact) -> Mapping[Medium, Artifact]:
    """The artifact as each medium's, the first as one that knows of no other."""
    return {medium: artifact.reading(medium) for medium in media_read(artifact.manifest)}


def _checked(checks: Checks) -> Checks:
    """Refuse a self-test that says nothing of a graph."""
    expected = checks.expected
    for (k, precision), name in zip(checks.vision, checks.names, strict=False):
        if precision not in expected.vision[k].bounds:
            raise _says_nothing(checks, name)
    for reader in checks.readers:
        if reader not in expected.answer.bounds:
            raise _says_nothing(checks, reader_check(checks.medium, reader))
    return checks


def _says_nothing(checks: Checks, check: str) -> ArtifactError:
    return ArtifactError(
        f"the self-test of {checks.part.root} says nothing of {check}", advice="export it again"
    )
