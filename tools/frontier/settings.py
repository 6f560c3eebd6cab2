"""Knows what is compared: a method, the stages inside tower and decoder, and the same at the
dimensions of another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pocketvlm.artifact.stages import Stage
from pocketvlm_export import ExportOptions
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.pruning import find_pruner


@dataclass(frozen=True)
class Dimensions:
    """What stages and budgets are parts of.

    Attributes:
        tokens: visual tokens of a picture before pruning.
        tower, decoder: layers that are used.
    """

    tokens: int
    tower: int
    decoder: int

    @classmethod
    def of(cls, model: str) -> Self:
        """Those of a checkpoint."""
        spec = inspect_checkpoint(model).spec
        return cls(spec.vision.tokens, spec.vision.depth, spec.decoder.layers)


@dataclass(frozen=True)
class Setting:
    """What an artifact of its own is exported for; it serves several budgets.

    Attributes:
        pruner: the method.
        options: of the method, (name, value) pairs.
        tower, decoder: stages inside the vision tower and inside the decoder.
    """

    pruner: str
    options: tuple[tuple[str, str], ...] = ()
    tower: tuple[Stage, ...] = ()
    decoder: tuple[Stage, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder and of its figures: ``scope+tower-2-72-farthest``."""
        method = "-".join([self.pruner, *(value for _, value in self.options)])
        return "+".join(
            [method]
            + [f"tower-{_dashed(stage)}" for stage in self.tower]
            + [f"decoder-{_dashed(stage)}" for stage in self.decoder]
        )

    @property
    def title(self) -> str:
        """Of the method, for people."""
        return find_pruner(self.pruner).title

    @property
    def nested(self) -> bool:
        """Whether the graph of a budget serves all smaller ones."""
        return find_pruner(self.pruner).nested

    @property
    def stages(self) -> str:
        """Its stages, for people; empty where there are none."""
        parts = []
        if self.tower:
            parts.append(f"tower {' '.join(map(str, self.tower))}")
        if self.decoder:
            parts.append(f"decoder {' '.join(map(str, self.decoder))}")
        return ", ".join(parts)

    @property
    def whole(self) -> Setting:
        """The same method without any stage."""
        return replace(self, tower=(), decoder=())

    def allowed(self, budgets: Sequence[int]) -> list[int]:
        """Those of ``budgets`` with which all that it names drops something: fewer than the tower's
        last stage keeps, more than the decoder's first one does."""
        most = self.tower[-1].keep - 1 if self.tower else max(budgets)
        least = self.decoder[0].keep if self.decoder else 0
        return [budget for budget in budgets if least < budget <= most]

    def export_options(self, budgets: Sequence[int], **further: Any) -> ExportOptions:
        """A request for these budgets; the default one is the first."""
        stages: Mapping[str, Any] = {"decoder_stages": self.decoder} if self.decoder else {}
        return ExportOptions(
            pruner=self.pruner,
            pruner_options=dict(self.options),
            budgets=tuple(budgets) if find_pruner(self.pruner).prunes else (),
            tower_stages=self.tower,
            **stages,
            **further,
        )

    def scaled(self, here: Dimensions, there: Dimensions) -> Setting:
        """The same parts of another model's depth and tokens."""

        def moved(stages: Sequence[Stage], depth: int, to: int) -> tuple[Stage, ...]:
            return tuple(
                replace(
                    stage,
                    layer=min(to - 1, max(1, round(stage.layer * to / depth))),
                    keep=scaled_tokens(stage.keep, here, there),
                )
                for stage in stages
            )

        return replace(
            self,
            tower=moved(self.tower, here.tower, there.tower),
            decoder=moved(self.decoder, here.decoder, there.decoder),
        )


def scaled_tokens(tokens: int, here: Dimensions, there: Dimensions) -> int:
    """The same part of another model's tokens, at least one of each that is not none."""
    return max(min(tokens, 1), round(tokens * there.tokens / here.tokens))


def work(stages: Sequence[Stage], layers: int, tokens: int) -> float:
    """Rows that all layers read together, of those that they would read without stages.

    >>> work([Stage(2, 72)], layers=5, tokens=144)
    0.7
    """
    left = [tokens] * layers
    for stage in stages:
        left[stage.layer :] = [min(stage.keep, tokens)] * (layers - stage.layer)
    return sum(left) / (layers * tokens)


def _dashed(stage: Stage) -> str:
    return str(stage).replace(":", "-")
