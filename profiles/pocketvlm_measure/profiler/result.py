"""Knows the results of measuring: every sample of every configuration, estimates by formula, and
warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.artifact import Manifest
from pocketvlm.layouts import media_read
from pocketvlm_measure.cases import Case
from pocketvlm_measure.machine import BUSY, Machine
from pocketvlm_measure.profiler.costs import Costs, costs_of
from pocketvlm_measure.profiler.once import Sample
from pocketvlm_measure.profiler.questions import Question
from pocketvlm_measure.profiler.selection import Selection
from pocketvlm_measure.spread import Spread

STAGES = ("load", "preprocess", "vision", "select", "embed", "prefill", "ttft", "decode", "total")
FURTHER = "further"  # beyond these, where the method reads the prompt, see `Sample.stages`


@dataclass
class Result:
    """One configuration: its samples in the order they were taken, how many pictures and clips are
    shown in each, and what selection costs where the graph names its nodes."""

    case: Case
    shown: int
    manifest: Manifest
    samples: list[Sample] = field(default_factory=list)
    selection: Selection | None = None

    @property
    def stages(self) -> dict[str, Spread]:
        """Milliseconds by stage in the order of `STAGES`, then `FURTHER`, see `Sample.stages`;
        ``select`` and that one only where they were measured."""
        spreads = {
            stage: Spread([s.stages[stage] for s in self.samples])
            for stage in self.samples[0].stages
        }
        if self.selection is not None:
            spreads["select"] = Spread(self.selection.select)
        return {stage: spreads[stage] for stage in (*STAGES, FURTHER) if stage in spreads}

    @property
    def select_share(self) -> float | None:
        """Selection's share of the time that vision takes, 0 to 1: of the graph's nodes where they
        are named, else of the stage where it is one of its own; None where it was not measured."""
        if self.selection is not None:
            return self.selection.share
        shares = [s.stages["select"] / s.stages["vision"] for s in self.samples if _selects(s)]
        return Spread(shares).median if shares else None

    @property
    def peak_bytes(self) -> Spread | None:
        """Peak memory of each process; None where the system does not count it."""
        peaks = [sample.peak_bytes for sample in self.samples if sample.peak_bytes is not None]
        return Spread(peaks) if peaks else None

    @property
    def decode_rate(self) -> float | None:
        """New tokens per second after the first: the median; None where only one was generated."""
        return Spread(rates).median if (rates := self.rates("decode")) else None

    def rates(self, stage: str) -> list[float]:
        """Tokens per second of each sample; empty for stages other than prefill and decode."""
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
        """The estimates by formula."""
        first = self.samples[0]
        return costs_of(
            self.manifest,
            tiles=first.tile_tokens,
            visual=first.visual_after,
            prompt=first.prompt_tokens,
            value_bytes=first.value_bytes,
            dropped=[first.visual_after - left for left in first.visual_stages],
        )


def _selects(sample: Sample) -> bool:
    return "select" in sample.stages and sample.stages["vision"] > 0


@dataclass
class Profile:
    """A whole measurement.

    Attributes:
        folder: the artifact's.
        results: those configurations that have a sample.
        started: when, in UTC, as ISO 8601.
        interrupted: the measurement ended before every run was made.
        memory_limit: MB (10^6 bytes) that a process should not exceed; None or 0 means no limit.
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
        """The indices of the parts of `Case.family` that differ between results."""
        families = [result.case.family for result in self.results]
        return [
            part
            for part in range(len(families[0]))
            if len({family[part] for family in families}) > 1
        ]

    def warnings(self) -> list[str]:
        """What makes these figures doubtful, one line each."""
        return list(self._warnings())

    def _warnings(self) -> Iterator[str]:
        if self.interrupted:
            yield (
                f"interrupted: {sum(len(r.samples) for r in self.results)} runs were made, and "
                f"all of them count"
            )
        before = self.machine.other_load
        if before is None:
            yield "this system does not count how busy its CPUs are"
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
                f"few runs per configuration ({self.repeat}), so the spread is uncertain: use "
                f"--repeat 5 or more"
            )

    def outliers(self) -> list[dict[str, Any]]:
        """Samples far from the median, by configuration and stage; all of them count."""
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
    """Outliers that matter: off the median by over a tenth and over a millisecond."""
    off = max(1.0, 0.1 * spread.median)
    return [value for value in spread.outliers if abs(value - spread.median) > off]


def clips_of(profile: Profile) -> int:
    """How many clips each run is shown, noise counted; the rest of `Result.shown` are pictures."""
    question = profile.question
    if question.media:
        return len(question.videos)
    return int(media_read(profile.manifest)[0] == "video")
