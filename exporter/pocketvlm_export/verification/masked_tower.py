"""Knows how the gate's side drops rows between a tower's layers. transformers' own layers run over
every row, and from a stage on the dropped ones are hidden from all others. Nothing is gathered
here, so that no mistake is made on both sides."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pocketvlm.artifact.stages import Stage
from pocketvlm_export import upstream
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.tower_stages import find_criterion
from pocketvlm_export.towers import TOWERS
from pocketvlm_export.verification.tower_stages import Choice, Layer, find_chooser

Ints = npt.NDArray[np.int64]


class MaskedTower(upstream.Listener):
    """One run of a tower loaded with `upstream.recording_attention` over one picture.

    Attributes:
        places: numbers of the tokens that are there by now, ascending; None without stages.
        choices: one for each stage so far, among what was there.
    """

    def __init__(
        self,
        vision: VisionSpec,
        stages: Sequence[Stage],
        instead: Mapping[int, Ints] | None = None,
    ) -> None:
        """``instead`` has what is kept at some of the stages, by their numbers, whatever their ways
        choose."""
        self.places: Ints | None = np.arange(vision.tokens) if stages else None
        self.choices: list[Choice] = []
        self._vision = vision
        self._stages = stages
        self._instead = instead or {}
        self._layers: dict[int, Layer] = {}
        self._bias: torch.Tensor | None = None

    @contextmanager
    def follow(self, tower: Any) -> Iterator[None]:
        """Drop rows of ``tower`` while this is open, for one run of it."""
        layers = TOWERS[self._vision.config.model_type].layers(tower)
        hooks = [
            layers[stage.layer].register_forward_pre_hook(partial(self._before, number))
            for number, stage in enumerate(self._stages)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def keep_of(self, stage: Stage, layers: Sequence[Layer]) -> int:
        """Return how many tokens are kept at a stage, of those that were there in the last of the
        ``layers``."""
        return stage.keep

    def bias(self, number: int) -> torch.Tensor | None:
        """See `upstream.Listener.bias`."""
        return self._bias

    def heard(
        self, number: int, maps: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Keep of a layer what the stages read."""
        stage = next((stage for stage in self._stages if stage.layer > number), None)
        watched = any(find_criterion(stage.by).watches for stage in self._stages)
        if stage is None or not (watched or stage.layer == number + 1):
            return
        assert self.places is not None
        rows = self.rows()
        first = rows if stage.layer == number + 1 else rows[:1]
        self._layers[number] = Layer(
            self._vision.grid,
            self.places,
            int(self._vision.has_cls),
            self._vision.merge,
            maps[:, first][:, :, rows].numpy(),
            keys[:, rows].numpy(),
            values[:, rows].numpy(),
            np.empty((0, 0)),
        )

    def patches(self, places: Ints) -> Ints:
        """Return where the patches of the given tokens are in the picture, token by token."""
        edge = self._vision.merge
        columns = self._vision.grid[1]
        return np.array(
            [
                (place // columns * edge + y) * columns * edge + place % columns * edge + x
                for place in places.tolist()
                for y in range(edge)
                for x in range(edge)
            ]
        )

    def rows(self) -> Ints:
        """Return the rows of what is there: [CLS], and the patches token by token."""
        assert self.places is not None
        before = int(self._vision.has_cls)
        return np.concatenate([np.arange(before), before + self.patches(self.places)])

    def _before(self, number: int, layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """Choose at a stage, whose layer is about to read (1, tokens, C)."""
        stage, hidden = self._stages[number], inputs[0][0]
        rows = self.rows()
        patches = hidden[rows[int(self._vision.has_cls) :]].double().numpy()
        self._layers[stage.layer - 1] = replace(self._layers[stage.layer - 1], hidden=patches)
        adds_up = bool(find_criterion(stage.by).watches)
        layers = [
            self._layers[at] for at in sorted(self._layers) if adds_up or at == stage.layer - 1
        ]
        choice = find_chooser(stage.by)(layers, self.keep_of(stage, layers))
        self.choices.append(choice)
        assert self.places is not None
        self.places = self.places[self._instead.get(number, choice.kept)]
        hidden_rows = torch.ones(len(hidden), dtype=torch.bool)
        hidden_rows[torch.from_numpy(self.rows())] = False
        self._bias = torch.zeros(len(hidden)).masked_fill(hidden_rows, -torch.inf)
        last = self._layers[stage.layer - 1]
        self._layers[stage.layer - 1] = replace(
            last, maps=last.maps[:, :1], hidden=np.empty((0, 0))
        )
