"""Ways to choose the visual tokens that are kept at a stage of the decoder, by name; importing this
imports no torch.

A new one is a module here, a module of the same name in
`pocketvlm_export.verification.decoder_stages`, and one line of `DECODER_STAGES`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from pocketvlm.artifact.stages import GIVEN, Stage
from pocketvlm.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm_export.decoder_stages.base import StageRanking

__all__ = ["DECODER_STAGES", "find_ranking", "module_name", "named"]

# By name its class, in the module of that name with "_" for "-". The function ``score`` of the
# module of that name in `pocketvlm_export.verification.decoder_stages` is its oracle.
DECODER_STAGES: Mapping[str, str] = {
    "last-token": "LastToken",
    "raters": "Raters",
    GIVEN: "Given",
    "exit": "Exit",
}
_DEFAULT, _OF_NONE = "last-token", "exit"


def named(stage: Stage) -> Stage:
    """Return a stage whose ``by`` was left open with the usual one: the last token's attention, or
    where nothing is kept none at all."""
    return (
        stage if stage.by else Stage(stage.layer, stage.keep, _DEFAULT if stage.keep else _OF_NONE)
    )


def find_ranking(by: str) -> "type[StageRanking]":
    """Return the class called ``by``; raises `RequestError` where there is none."""
    if by not in DECODER_STAGES:
        raise RequestError(
            f"a decoder stage by {by!r} is unknown",
            advice=f"choose from {', '.join(DECODER_STAGES)}",
            setting="decoder_stage",
        )
    ranking: type[StageRanking] = getattr(
        import_module(f"{__name__}.{module_name(by)}"), DECODER_STAGES[by]
    )
    return ranking


def module_name(by: str) -> str:
    """Return what the modules of a way to choose are called, its own and its oracle's."""
    return by.replace("-", "_")
