"""Stages of the vision tower: which ways there are to choose the patches that go on, and where a
tower can have them; importing this imports no torch."""

from collections.abc import Mapping, Sequence

from pocketvlm.artifact.stages import Stage
from pocketvlm.errors import RequestError
from pocketvlm_export.families import VLMSpec

# By name the module of each; its class ranks the patches of a layer.
TOWER_STAGES: Mapping[str, str] = {}


def settle_tower_stages(
    stages: Sequence[Stage], spec: VLMSpec, budgets: Sequence[int]
) -> tuple[Stage, ...]:
    """Return the stages with their ``by`` named.

    Raises:
        RequestError: a stage that this tower cannot have, or that leaves fewer patches than the
            largest of ``budgets``.
    """
    for stage in stages:
        raise RequestError(
            f"tower stage {stage} ranks patches in a way that is unknown",
            advice=f"choose from {', '.join(TOWER_STAGES) or 'none: leave --tower-stage out'}",
            setting="tower_stage",
        )
    return tuple(stages)
