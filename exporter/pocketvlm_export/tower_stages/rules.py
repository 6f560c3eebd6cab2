"""Knows which stages a tower can have, and what a budget may be behind them."""

from collections.abc import Sequence
from dataclasses import replace

from pocketvlm.artifact.stages import Stage
from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec, VLMSpec
from pocketvlm_export.pruning.base import TEXT, Pruner
from pocketvlm_export.tower_stages import DEFAULT_CRITERION, TOWER_STAGES, find_criterion
from pocketvlm_export.towers import TOWERS


def settle_tower_stages(
    stages: Sequence[Stage], spec: VLMSpec, pruner: Pruner
) -> tuple[Stage, ...]:
    """Return the stages with their ``by`` named; raises `RequestError` for one that this tower
    cannot have, or before a method that keeps everything."""
    settled = tuple(replace(stage, by=stage.by or DEFAULT_CRITERION) for stage in stages)
    if not settled:
        return ()
    _check_tower(settled[0], spec)
    for stage in settled:
        _check_stage(stage, spec.vision)
    last = settled[-1]
    if not pruner.prunes:
        raise RequestError(
            f"pruner {pruner.name} keeps every token, and tower stage {last} drops some",
            advice=f"choose a pruner with --budget {last.keep}, which keeps all that are left",
            setting="tower_stage",
        )
    why = "mixes what it drops into what it keeps" if pruner.merges else ""
    if TEXT in pruner.reads:
        why = "selects by the question, from every token of the picture"
    if why:
        raise RequestError(
            f"pruner {pruner.name} {why}, which is not proven behind tower stage {last}",
            advice="leave --tower-stage out, or choose a method that keeps tokens as they are",
            setting="tower_stage",
        )
    return settled


def check_budgets_behind(stages: Sequence[Stage], budgets: Sequence[int]) -> None:
    """Refuse budgets of more tokens than the last stage leaves; raises `RequestError`."""
    if not stages:
        return
    last = stages[-1]
    if max(budgets) > last.keep:
        raise RequestError(
            f"budget {max(budgets)} is more than tower stage {last} leaves, which is {last.keep}",
            advice=f"give a budget of at most {last.keep}, or a stage that keeps more",
            setting="budget",
        )


def default_budget(pruner: Pruner, tokens: int, stages: Sequence[Stage]) -> int:
    """Return the method's own default of a picture's ``tokens``, or what the last stage leaves
    where that is less."""
    own = pruner.default_budget(tokens)
    return min(own, stages[-1].keep) if stages and pruner.prunes else own


def _check_tower(stage: Stage, spec: VLMSpec) -> None:
    """Refuse every stage where a row that is missing would change what the others mean."""
    model, undivided = (
        spec.vision.config.model_type,
        TOWERS[spec.vision.config.model_type].undivided,
    )
    why = f"its layers {undivided}" if undivided else ""
    if spec.vision.image_size is None:
        why = why or "it reads pictures of any size, and how many patches are kept is one number"
    if why:
        raise RequestError(
            f"tower stage {stage} is not possible in a {model} tower: {why}",
            advice="leave --tower-stage out, and prune behind the tower alone",
            setting="tower_stage",
        )


def _check_stage(stage: Stage, vision: VisionSpec) -> None:
    criterion, last = find_criterion(stage.by), vision.score_layer
    if criterion.needs_cls and not vision.has_cls:
        others = (name for name in TOWER_STAGES if not find_criterion(name).needs_cls)
        raise RequestError(
            f"tower stage {stage} ranks patches by a [CLS] token, which a "
            f"{vision.config.model_type} tower has not",
            advice=f"choose from {', '.join(others)}",
            setting="tower_stage",
        )
    if not 1 <= stage.layer <= last:
        within = f"give a layer of 1..{last}" if last else "leave --tower-stage out"
        raise RequestError(
            f"tower stage {stage} is outside layers 1..{last} (patches are ranked in the layer "
            f"before, and in the end in layer {last})",
            advice=within,
            setting="tower_stage",
        )
    if not 1 <= stage.keep < vision.tokens:
        raise RequestError(
            f"tower stage {stage} keeps {stage.keep}, which is outside 1..{vision.tokens - 1} (the "
            f"tower makes {vision.tokens} tokens of a picture or tile)",
            advice="keep fewer, or leave --tower-stage out",
            setting="tower_stage",
        )
