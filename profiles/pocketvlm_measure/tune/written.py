"""Knows a tuning's choice as a deployment target: every value with the measured reason for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pocketvlm.artifact import Manifest
from pocketvlm.errors import RequestError
from pocketvlm_measure.cases import Case
from pocketvlm_measure.table import count
from pocketvlm_measure.tune import words
from pocketvlm_measure.tune.tuning import Candidate, Evidence, Tuning
from pocketvlm_targets import Target, TargetError, target_of, write_target

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Chosen:
    """What a target is written of.

    Attributes:
        tuning: with a choice.
        manifest: of the artifact that was chosen.
        model: what was tuned, as it was named.
        machine: a line about where it was measured, CPU first.
        date: when.
        memory_limit: MB that the device allows, where it was given and an export is expected to
            keep to it; else None.
    """

    tuning: Tuning
    manifest: Manifest
    model: str
    machine: str
    date: str
    memory_limit: int | None = None

    @property
    def evidence(self) -> Evidence:
        """Of the choice; raises `RequestError` where nothing was chosen."""
        if self.tuning.chosen is None:
            raise RequestError(
                "no target is written: nothing that was tried satisfies the limits",
                advice="allow more, or give more questions",
                setting="write_target",
            )
        return self.tuning.chosen

    @property
    def case(self) -> Case:
        """The configuration that was chosen."""
        return self.evidence.candidate.case


def written(chosen: Chosen) -> str:
    """Return the text of a target's file, see `pocketvlm_targets.load_target`.

    Raises:
        RequestError: nothing was chosen, or it has a name that no target can hold.
    """
    try:
        return write_target(target(chosen))
    except TargetError as error:  # a method from another package, with a strange name
        raise RequestError(
            error.found, error.expected, error.advice, setting="write_target"
        ) from error


def target(chosen: Chosen) -> Target:
    """The same as a target; raises TargetError too."""
    values = dict(_values(chosen))
    made = target_of(f"{_short(chosen.model)} on {_short(chosen.machine)}", values)
    return replace(made, reasons={**made.reasons, "description": _about(chosen)})


def _values(chosen: Chosen) -> Iterator[tuple[str, tuple[Any, str]]]:
    """(key, (value, reason)) of all but the description."""
    evidence, tuning, case = chosen.evidence, chosen.tuning, chosen.case
    pruning, vision = chosen.manifest.pruning, chosen.manifest.vision
    further = "; give --merge-dropped too" if pruning.merge_dropped else ""
    yield (
        "pruner",
        (pruning.method, f"{_sentence(words.kept(evidence, tuning))}{further}."),
    )
    timed = _sentence(words.time(evidence, tuning))
    yield "budget", ([case.budget], f"{timed}.{_instead(chosen, 'budget')}")
    if vision.stages:
        stages = [str(stage) for stage in vision.stages]
        yield (
            "tower_stage",
            (stages, f"Part of what was measured: {words.time(evidence, tuning)}."),
        )
    if vision.made_for and (size := vision.image_size):
        height, width = size
        edges = height if height == width else f"{height}x{width}"
        yield "image_size", (edges, f"Part of what was measured: {words.time(evidence, tuning)}.")
    for name, what in (("max_pixels", "pixels of a picture"), ("max_tiles", "parts of a picture")):
        if (value := getattr(case, name)) is not None:
            yield name, (value, f"{timed} with at most so many {what}.{_instead(chosen, name)}")
    engine = case.decoder
    yield "decoder", (engine, f"The engine that was measured: {words.memory(evidence)}.")
    yield (
        "vision_precision",
        ([case.vision_precision], f"{timed}.{_instead(chosen, 'vision_precision')}"),
    )
    parts = case.decoder_precision.split("+")
    pair = ""
    if len(parts) > 1:
        pair = f" Prefill in {parts[0]} and decode in {parts[1]}: {_asked_for(chosen)}."
    kept = _sentence(f"{words.memory(evidence)}; {words.kept(evidence, tuning)}")
    key = "gguf_type" if parts[0] in chosen.manifest.decoder.gguf else "decoder_precision"
    yield key, (parts, f"{kept}.{_instead(chosen, 'decoder_precision')}{pair}")
    if case.threads is not None:
        yield "threads", (case.threads, f"As it was measured, on {chosen.machine}.")
    if case.providers:
        yield "provider", (list(case.providers), f"As it was measured, on {chosen.machine}.")
    if chosen.memory_limit is not None:
        yield (
            "memory_limit",
            (chosen.memory_limit, f"Asked for; {words.memory(evidence)} was measured."),
        )


def _asked_for(chosen: Chosen) -> str:
    """When two decoders answer as the pair that was chosen."""
    if chosen.case.decoder_precision == chosen.manifest.decoder.pair:
        return "they answer together by themselves where memory allows both"
    return f"give --decoder-precision {chosen.case.decoder_precision} when it answers"


def _about(chosen: Chosen) -> str:
    """The reason above the description: what was tuned, where, and how much was tried."""
    tuning = chosen.tuning
    return (
        f"Chosen by `pocketvlm tune` of {_short(chosen.model)} on {chosen.date}, measured on "
        f"{chosen.machine}. Asked for: {words.limits(tuning)}. Of "
        f"{count(len(tuning.evidence) + 1, 'candidate')}, on "
        f"{count(tuning.questions, 'question')} about {count(tuning.pictures, 'picture')}, it is "
        f"the first to answer of those that keep to that ({chosen.evidence.verdict}); counted was "
        f"{tuning.figure}."
    )


def _instead(chosen: Chosen, key: str) -> str:
    """What else was tried for one setting, all others as chosen, with what became of it."""
    own = chosen.evidence.candidate
    others = [
        f"{getattr(one.candidate.case, key)}: {_outcome(one, chosen.tuning)}"
        for one in (chosen.tuning.baseline, *chosen.tuning.evidence)
        if _differs_in(one.candidate, own, key)
    ]
    return f" Instead {'; '.join(others)}." if others else ""


def _outcome(evidence: Evidence, tuning: Tuning) -> str:
    whose = "baseline's" if tuning.pruned else "unpruned"
    ratio = "" if evidence.ratio is None else f", {evidence.ratio:.2f} of the {whose} time"
    return f"{evidence.verdict}{ratio}"


def _differs_in(one: Candidate, other: Candidate, key: str) -> bool:
    """Whether two candidates differ in this setting of their cases and in nothing else."""
    if one.made_by != other.made_by or (not one.made_by and one.folder != other.folder):
        return False
    same: Mapping[str, Any] = {key: getattr(other.case, key)}
    return one.case != other.case and replace(one.case, **same) == other.case


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
