"""Knows what came of measuring: every sample of every configuration, what the formulas say, what is
to be doubted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.artifact import Manifest
from pocketvlm_measure.cases import Case
from pocketvlm_measure.machine import BUSY, Machine
from pocketvlm_measure.profiler.costs import Costs, costs_of
from pocketvlm_measure.profiler.once import Sample
from pocketvlm_measure.profiler.questions import Question
from pocketvlm_measure.profiler.selection import Selection
from pocketvlm_measure.spread import Spread

STAGES = ("load", "preprocess", "vision", "select", "embed", "prefill", "ttft", "decode", "total")


@dataclass
class Result:
    """One configuration: its samples in the order they were taken, and its selection where the
    graph tells."""

    case: Case
    pictures: int
    manifest: Manifest
    samples: list[Sample] = field(default_factory=list)
    selection: Selection | None = None

    @property
    def stages(self) -> dict[str, Spread]:
        """Milliseconds by stage in the order of `STAGES`; ``select`` only where it is known. See
        `Timings`."""
        found = {
            stage: Spread([s.stages[stage] for s in self.samples])
            for stage in self.samples[0].stages
        }
        if self.selection is not None:
            found["select"] = Spread(self.selection.select)
        return {stage: found[stage] for stage in STAGES if stage in found}

    @property
    def peak_bytes(self) -> Spread | None:
        """Peak memory of each process; None where the system does not tell."""
        known = [sample.peak_bytes for sample in self.samples if sample.peak_bytes is not None]
        return Spread(known) if known else None

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second: the median."""
        return Spread(self.rates("prefill")).median

    @property
    def decode_rate(self) -> float | None:
        """New tokens a second after the first: the median; None where only one was made."""
        return Spread(rates).median if (rates := self.rates("decode")) else None

    def rates(self, stage: str) -> list[float]:
        """Tokens a second of each sample, of the two stages that make or read tokens; of others
        none."""
        tokens = {
            "prefill": self.samples[0].prompt_tokens,
            "decode": self.samples[0].new_tokens - 1,
        }.get(stage, 0)
        return (
            [tokens / s.stages[stage] * 1e3 for s in self.samples if s.stages[stage]]
            if tokens
            else []
        )

    @property
    def costs(self) -> Costs:
        """What the formulas say."""
        first = self.samples[0]
        return costs_of(
            self.manifest,
            tiles=first.tiles,
            visual=first.visual_after,
            prompt=first.prompt_tokens,
            value_bytes=first.value_bytes,
            dropped=first.visual_dropped,
        )


@dataclass
class Profile:
    """A whole measurement.

    Attributes:
        folder: the artifact's.
        results: those configurations that have a sample.
        started: when, in UTC, as ISO 8601.
        interrupted: not every run was made.
        memory_limit: MB (10^6 bytes) that a process should not take; None or 0 is no limit.
    """

    folder: str
    manifest: Manifest
    machine: Machine
    question: Question
    repeat: int
    warmup: int
    started: str
    results: list[Result] = field(default_factory=list)
    interrupted: bool = False
    memory_limit: int | None = None

    def reference(self, result: Result) -> Result:
        """What a result is compared with: the one with the most visual tokens that differs in
        nothing else."""
        family = [other for other in self.results if other.case.family == result.case.family]
        return max(family, key=lambda other: other.case.budget)

    @property
    def varying(self) -> list[int]:
        """Which parts of `Case.family` differ between results, and so must be said of each."""
        families = [result.case.family for result in self.results]
        return [
            part
            for part in range(len(families[0]))
            if len({family[part] for family in families}) > 1
        ]

    def warnings(self) -> list[str]:
        """What makes these figures doubtful, a line each."""
        return list(self._warnings())

    def _warnings(self) -> Iterator[str]:
        if self.interrupted:
            yield (
                f"interrupted: {sum(len(r.samples) for r in self.results)} runs were made, and "
                f"all of them count"
            )
        before = self.machine.other_load
        if before is None:
            yield (
                "nobody can tell here whether the machine is busy: pip install "
                "'pocketvlm[report]' for psutil"
            )
        elif before > BUSY:
            yield f"the machine was busy: others used {before:.0f} % of its CPUs before measuring"
        loads = [s.other_load for r in self.results for s in r.samples if s.other_load is not None]
        if busy := [load for load in loads if load > BUSY]:
            yield (
                f"the machine was busy: during {len(busy)} of {len(loads)} runs others used over "
                f"{BUSY:.0f} % of its CPUs, {max(busy):.0f} % at most"
            )
        for result in self.results:
            peak = result.peak_bytes
            if (
                self.memory_limit
                and peak is not None
                and max(peak.samples) > self.memory_limit * 1e6
            ):
                yield (
                    f"{result.case}: {max(peak.samples) / 1e6:.0f} MB are over the limit of "
                    f"{self.memory_limit} MB"
                )
        few = [r for r in self.results if len(r.samples) < 3]
        if few and not self.interrupted:
            yield (
                f"few runs ({self.repeat} of each) say little about the spread: --repeat 5 or "
                f"more does"
            )

    def outliers(self) -> list[dict[str, Any]]:
        """Which samples lie far off, by configuration and stage; all of them are in the figures."""
        return [
            {
                "case": str(result.case),
                "stage": stage,
                "median_ms": spread.median,
                "samples_ms": far,
            }
            for result in self.results
            for stage, spread in result.stages.items()
            if (far := _far(spread))
        ]


def _far(spread: Spread) -> list[float]:
    """Outliers that matter: a tenth and a millisecond off the median."""
    off = max(1.0, 0.1 * spread.median)
    return [value for value in spread.outliers if abs(value - spread.median) > off]
