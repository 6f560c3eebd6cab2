"""Knows what is compared: a method, the stages inside tower and decoder, the size of pictures, and
the same at the dimensions of another model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pocketvlm.artifact.stages import Stage
from pocketvlm_export import ExportOptions
from pocketvlm_export.families.picture_size import token_edge
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.pruning import find_pruner


@dataclass(frozen=True)
class Dimensions:
    """What stages, budgets and sizes are parts of.

    Attributes:
        tokens: visual tokens of a picture before pruning, which is a square.
        tower, decoder: layers that are used.
        edge: of the square of pixels that a token is of.
    """

    tokens: int
    tower: int
    decoder: int
    edge: int = 1

    @property
    def size(self) -> int:
        """Edge in pixels of the checkpoint's own pictures."""
        return math.isqrt(self.tokens) * self.edge

    def tokens_at(self, image_size: int | None) -> int:
        """Visual tokens before pruning of pictures with this edge in pixels; None is its own."""
        return self.tokens if image_size is None else (image_size // self.edge) ** 2

    @classmethod
    def of(cls, model: str) -> Self:
        """Those of a checkpoint."""
        spec = inspect_checkpoint(model).spec
        edge = token_edge(spec)
        return cls(spec.vision.tokens, spec.vision.depth, spec.decoder.layers, edge)


@dataclass(frozen=True)
class Setting:
    """What an artifact of its own is exported for; it serves several budgets.

    Attributes:
        pruner: the method.
        options: of the method, (name, value) pairs.
        tower, decoder: stages inside the vision tower and inside the decoder.
        image_size: edge of pictures in pixels; None for the checkpoint's own.
    """

    pruner: str
    options: tuple[tuple[str, str], ...] = ()
    tower: tuple[Stage, ...] = ()
    decoder: tuple[Stage, ...] = ()
    image_size: int | None = None

    @property
    def name(self) -> str:
        """Of its folder and of its figures: ``scope+tower-2-72-farthest``."""
        method = "-".join([self.pruner, *(value for _, value in self.options)])
        return "+".join(
            [method]
            + ([f"size-{self.image_size}"] if self.image_size else [])
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
        """Its stages and size, for people; empty where there are none."""
        parts = [f"{self.image_size} pixels"] if self.image_size else []
        if self.tower:
            parts.append(f"tower {' '.join(map(str, self.tower))}")
        if self.decoder:
            parts.append(f"decoder {' '.join(map(str, self.decoder))}")
        return ", ".join(parts)

    @property
    def whole(self) -> Setting:
        """The same method without any stage, of pictures of the checkpoint's own size."""
        return replace(self, tower=(), decoder=(), image_size=None)

    def allowed(self, budgets: Sequence[int], model: Dimensions | None = None) -> list[int]:
        """Those of ``budgets`` with which all that it names drops something: fewer than the tower's
        last stage keeps, or than a ``model`` makes of a smaller picture; more than the decoder's
        first stage keeps."""
        most = self.tower[-1].keep - 1 if self.tower else max(budgets)
        if self.image_size and model:
            most = min(most, model.tokens_at(self.image_size) - 1)
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
            image_size=(self.image_size, self.image_size) if self.image_size else None,
            **stages,
            **further,
        )

    def scaled(self, here: Dimensions, there: Dimensions) -> Setting:
        """The same parts of another model's depth, tokens and edge of pictures."""

        def moved(stages: Sequence[Stage], depth: int, to: int) -> tuple[Stage, ...]:
            return tuple(
                replace(
                    stage,
                    layer=min(to - 1, max(1, round(stage.layer * to / depth))),
                    keep=scaled_tokens(stage.keep, here, there),
                )
                for stage in stages
            )

        size = self.image_size and round(self.image_size * there.size / here.size / there.edge)
        return replace(
            self,
            image_size=size and size * there.edge,
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
