"""Knows which settings are compared: all methods, all ways to drop rows in the tower, the layers
and keeps that are tried for stages, and smaller pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from frontier.settings import Dimensions, Setting, work
from pocketvlm.artifact.stages import GIVEN, Stage
from pocketvlm_export.decoder_stages import DECODER_STAGES, named
from pocketvlm_export.families import FAMILIES
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.pruning import KEEPS_ALL, PRUNERS
from pocketvlm_export.tower_stages import TOWER_STAGES

# All plans are written in the demo's dimensions; another checkpoint gets the same parts of its own.
WRITTEN = Dimensions(tokens=144, tower=5, decoder=4, edge=8)
SHARES = (0.5, 0.25, 0.1, 0.05)  # of the visual tokens that budgets keep
# Where rows are dropped in its 5 layers, by each way to choose them, as LAYER:KEEP.
TOWER_PLANS = ("1:72", "2:72", "3:72", "1:96 3:48")
# And visual tokens in the decoder's 4: once, all (a fixed exit), in steps (PyramidDrop).
DECODER_PLANS = ("1:36", "2:36", "2:14", "1:72 2:36 3:18", "2:0", "3:0")
MOST_WORK = 0.8  # of the tower's rows that a plan may leave: one that saves less is not worth it
SIZES = (80, 72, 64, 48)  # edges in pixels, of 96
CHOSEN = 1  # tower plans that every method is measured with


@dataclass(frozen=True)
class Tried:
    """A plan of stages with what it was worth on the questions that it was chosen by.

    Attributes:
        setting: one with it.
        work: see `frontier.settings.work`.
        accuracy: a mean over budgets, 0 to 1.
    """

    setting: Setting
    work: float
    accuracy: float


def default_method(model: str) -> Setting:
    """The method that the checkpoint is exported with where none is named."""
    spec = inspect_checkpoint(model).spec
    return Setting(FAMILIES[spec.config.model_type].default_pruner(spec))


def methods(only: Iterable[str] = ()) -> list[Setting]:
    """Every method that prunes, or those named."""
    names = tuple(only) or tuple(name for name in PRUNERS if name != KEEPS_ALL)
    return [Setting(name) for name in names]


def unpruned() -> Setting:
    """What all are compared with."""
    return Setting(KEEPS_ALL)


def budgets_of(model: Dimensions) -> tuple[int, ...]:
    """Those that are measured, the most first."""
    return tuple(round(share * model.tokens) for share in SHARES)


def sizes_of(model: Dimensions) -> tuple[int, ...]:
    """Edges of smaller pictures, in pixels."""
    scaled = (replace(unpruned(), image_size=size).scaled(WRITTEN, model) for size in SIZES)
    return tuple(one.image_size for one in scaled if one.image_size)


def tower_candidates(method: Setting, model: Dimensions = WRITTEN) -> list[Setting]:
    """The method with every plan for the tower that saves enough, see `MOST_WORK`."""
    candidates = [
        replace(
            method, tower=tuple(replace(Stage.parse(part), by=by) for part in plan.split())
        ).scaled(WRITTEN, model)
        for by in TOWER_STAGES
        for plan in TOWER_PLANS
    ]
    return [one for one in candidates if work(one.tower, model.tower, model.tokens) <= MOST_WORK]


def decoder_candidates(model: Dimensions = WRITTEN) -> list[Setting]:
    """Every plan for a decoder that is given all tokens, by each way to choose them that needs
    nothing but the prompt."""
    leaving = named(Stage(layer=1, keep=0)).by
    ranking = [by for by in DECODER_STAGES if by not in (GIVEN, leaving)]
    candidates = []
    for plan in DECODER_PLANS:
        stages = tuple(map(Stage.parse, plan.split()))
        for by in ranking if stages[-1].keep else [leaving]:
            chosen = tuple(replace(stage, by=by) for stage in stages)
            candidates.append(replace(unpruned(), decoder=chosen).scaled(WRITTEN, model))
    return candidates


def tried(accuracy: Mapping[Setting, float], model: Dimensions) -> list[Tried]:
    """What was measured of candidates, with the work that each leaves."""
    return [
        Tried(
            setting,
            work(setting.tower, model.tower, model.tokens)
            if setting.tower
            else work(setting.decoder, model.decoder, model.tokens),
            value,
        )
        for setting, value in accuracy.items()
    ]


def best_of_each(results: Sequence[Tried]) -> list[Tried]:
    """Of each way to choose rows the most accurate plan; the most accurate first."""
    best: dict[str, Tried] = {}
    for result in sorted(results, key=lambda one: (-one.accuracy, one.work)):
        best.setdefault(result.setting.tower[0].by, result)
    return list(best.values())


def undominated(results: Sequence[Tried]) -> list[Tried]:
    """Those that no other beats in work and in accuracy at once; the most accurate first."""
    frontier: list[Tried] = []
    for result in sorted(results, key=lambda one: (-one.accuracy, one.work)):
        if not frontier or result.work < frontier[-1].work:
            frontier.append(result)
    return frontier
