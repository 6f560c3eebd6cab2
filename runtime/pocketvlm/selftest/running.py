"""Knows how a self-test is run: one graph in memory at a time, each beside what is expected."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby

from pocketvlm.artifact import Artifact, Manifest
from pocketvlm.decoders import is_installed, open_decoder
from pocketvlm.errors import EngineError
from pocketvlm.layouts import Tiles
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.selftest.checks import Checks, every_check, reader_check, vision_check
from pocketvlm.selftest.computing import TestPrompt
from pocketvlm.selftest.expected import Reader
from pocketvlm.selftest.judging import judge_answer, judge_vision
from pocketvlm.selftest.pictures import read_tiles
from pocketvlm.selftest.result import GraphResult, SelfTestResult
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.features import VisionFeatures


def run_self_test(
    artifact: Artifact,
    settings: EngineSettings = DEFAULT_SETTINGS,
    checks: Sequence[Checks] | None = None,
) -> SelfTestResult:
    """Compute an artifact's self-test here, and compare.

    >>> result = run_self_test(Artifact.open("my-artifact"))
    >>> [(row.graph, row.problem) for row in result.graphs if not row.passed]
    []

    Args:
        artifact: as opened, without caps or a shorter context.
        settings: the providers that compute, and their options.
        checks: which graphs; None is every one of the artifact.

    Returns:
        A row for each graph; what an engine could not compute is a row with its error.

    Raises:
        ArtifactError: the artifact has no self-test, or one that is damaged.
    """
    started = time.perf_counter()
    rows: list[GraphResult] = []
    for each in every_check(artifact) if checks is None else checks:
        rows += _Run(each, settings).rows()
    provider = ", ".join(dict.fromkeys(each.name for each in settings.every_provider))
    left_out = (
        []
        if checks is not None
        else [engine for engine in artifact.manifest.decoder.engines if not is_installed(engine)]
    )
    return SelfTestResult(provider, rows, (time.perf_counter() - started) * 1e3, left_out)


class _Run:
    """The checks of one medium under way; ``features`` are those of the default budget, by
    precision, as far as decoders read them."""

    def __init__(self, checks: Checks, settings: EngineSettings) -> None:
        expected = checks.expected
        self._checks = checks
        self._settings = settings
        self._prompt = TestPrompt(
            checks.part,
            expected.grid,
            expected.prompt_ids,
            expected.question_ids,
            expected.visual_scores,
        )
        self._tiles = read_tiles(checks.part, self._prompt.layout, expected.grid)
        self._features: dict[str, tuple[VisionFeatures, ...]] = {}

    def rows(self) -> Iterator[GraphResult]:
        """Each graph's result, vision graphs first."""
        checks, default = self._checks, self._checks.part.manifest.pruning.default_budget
        read = dict.fromkeys((default, reader.vision) for reader in checks.readers)
        for budget, precision in dict.fromkeys((*checks.vision, *read)):
            yield self._vision(budget, precision, keep=(budget, precision) in read)
        ordered = sorted(checks.readers, key=lambda reader: (reader.engine, reader.precision))
        for _, readers in groupby(ordered, key=lambda reader: (reader.engine, reader.precision)):
            yield from self._decoder(list(readers))

    def _vision(self, budget: int, precision: str, *, keep: bool) -> GraphResult:
        checks, expected = self._checks, self._checks.expected.vision[budget]
        result = GraphResult(
            vision_check(checks.medium, budget, precision),
            checks.part.manifest.vision.graphs[budget][precision],
            f"vision {precision}, {budget} tokens",
        )
        try:
            features = see(self._prompt, self._tiles, budget, precision, self._settings)
        except EngineError as error:
            return dataclasses.replace(result, error=error.reason)
        if keep:
            self._features[precision] = features
        figures = judge_vision(features, expected, expected.bounds[precision])
        return dataclasses.replace(result, figures=figures)

    def _decoder(self, readers: Sequence[Reader]) -> Iterator[GraphResult]:
        """Of one decoder behind several vision graphs."""
        checks, first = self._checks, readers[0]
        expected, manifest = checks.expected.answer, checks.part.manifest
        file = manifest.decoder.by_engine[first.engine][first.precision]
        rows = {
            reader: GraphResult(
                reader_check(checks.medium, reader),
                file,
                f"{_engine(manifest, reader)} behind vision {reader.vision}",
            )
            for reader in readers
        }
        try:
            decoder = open_decoder(
                self._short(),
                engine=first.engine,
                precision=first.precision,
                settings=self._settings,
            )
        except EngineError as error:
            for row in rows.values():
                yield dataclasses.replace(row, error=error.reason)
            return
        with closing(decoder):
            for reader, row in rows.items():
                if reader.vision not in self._features:
                    yield dataclasses.replace(row, error="its vision graph computed nothing")
                    continue
                features = self._features[reader.vision]
                try:
                    answer = self._prompt.read(decoder, features, expected.token_ids)
                except EngineError as error:
                    yield dataclasses.replace(row, error=error.reason)
                    continue
                figures = judge_answer(answer, expected, expected.bounds[reader])
                yield dataclasses.replace(row, figures=figures)

    def _short(self) -> Artifact:
        """The artifact with room for the prompt and its answer alone."""
        answer = len(self._checks.expected.answer.token_ids)
        lengths = [len(self._prompt.input_ids(seen)) for seen in self._features.values()]
        most = max(lengths, default=1)
        return self._checks.part.shortened(most + answer)


def see(
    prompt: TestPrompt,
    tiles: Tiles,
    budget: int,
    precision: str,
    settings: EngineSettings,
    table: str | None = None,
) -> tuple[VisionFeatures, ...]:
    """What the vision graph of a budget and precision keeps of a prompt's picture; arguments and
    errors as of `VisionEncoder.open` and `VisionEncoder.encode`."""
    encoder = VisionEncoder.open(
        prompt.artifact, budget=budget, precision=precision, settings=settings, table=table
    )
    return prompt.see(encoder, tiles)


def _engine(manifest: Manifest, reader: Reader) -> str:
    several = len(manifest.decoder.engines) > 1
    return (
        f"decoder {reader.engine} {reader.precision}" if several else f"decoder {reader.precision}"
    )
