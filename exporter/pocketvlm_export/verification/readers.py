"""How the gate's side reads a sequence: transformers' model as it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import Cache

from pocketvlm.decoders.track import joined_planes
from pocketvlm_export.verification.masked_reader import Dropping

# (model, embeddings (1, S, hidden), which tokens are pictures' (S,)) -> what else the model is
# given with a prompt, see `Family.reference_inputs`.
Inputs = Callable[[Any, torch.Tensor, npt.NDArray[np.bool_]], Mapping[str, Any]]


@dataclass(frozen=True)
class PromptPositions:
    """Where the tokens of a prompt stand, for models that do not number them 0, 1, 2, ...

    Attributes:
        ids: int64 (axes, S).
        following: the position of the token after them.
    """

    ids: npt.NDArray[np.int64]
    following: int


class PlainReader:
    """One sequence read by a causal language model."""

    dropping: Sequence[Dropping] = ()

    def __init__(
        self,
        model: nn.Module,
        positions: PromptPositions | None = None,
        inputs: Inputs = lambda model, inputs_embeds, is_visual: {},
    ) -> None:
        """``positions`` are the prompt's; None where they are 0, 1, 2, ..."""
        self._model = model
        self._positions = positions
        self._inputs = inputs
        self._read = 0  # tokens after the prompt
        self._cache: Cache | None = None  # the model makes the one that its layers need

    def prefill(
        self, inputs_embeds: torch.Tensor, is_visual: npt.NDArray[np.bool_]
    ) -> torch.Tensor:
        """Read a prompt, (1, S, hidden); returns the last token's logits (vocab,)."""
        positions = self._positions.ids if self._positions else None
        further = self._inputs(self._model, inputs_embeds, is_visual)
        return self._run(inputs_embeds, positions, **further)

    def step(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Read the token that follows, (1, 1, hidden); returns its logits (vocab,)."""
        if self._positions is None:
            return self._run(inputs_embeds, None)
        self._read += 1
        at = np.full((len(self._positions.ids), 1), self._positions.following + self._read - 1)
        return self._run(inputs_embeds, at)

    def _run(
        self,
        inputs_embeds: torch.Tensor,
        positions: npt.NDArray[np.int64] | None,
        **further: Any,
    ) -> torch.Tensor:
        where = {}
        if positions is not None:  # (1, S), or (axes, 1, S)
            where = {"position_ids": torch.from_numpy(joined_planes([positions], len(positions)))}
        output = self._model(
            inputs_embeds=inputs_embeds,
            past_key_values=self._cache,
            use_cache=True,
            **where,
            **further,
        )
        self._cache = output.past_key_values
        logits: torch.Tensor = output.logits[0, -1]
        return logits


class ScoringReader(PlainReader):
    """The same, and of whole maps what each visual token is paid by the rows behind the picture.

    Attributes:
        visual_scores: of each visual token the sum over layers, heads and rows, those of tokens
            that were read after the prompt among them, (v,).
    """

    def __init__(self, model: Any) -> None:
        """``model`` runs with eager attention, which returns its maps."""
        super().__init__(model)
        self.visual_scores = np.zeros(0)
        self._layers = model.model.layers
        self._visual: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # positions

    def prefill(
        self, inputs_embeds: torch.Tensor, is_visual: npt.NDArray[np.bool_]
    ) -> torch.Tensor:
        """See `PlainReader.prefill`."""
        self._visual = np.flatnonzero(is_visual)
        self.visual_scores = np.zeros(len(self._visual))
        return super().prefill(inputs_embeds, is_visual)

    def _run(
        self,
        inputs_embeds: torch.Tensor,
        positions: npt.NDArray[np.int64] | None,
        **further: Any,
    ) -> torch.Tensor:
        first = self._visual[-1] + 1 if inputs_embeds.shape[1] > 1 else 0
        hooks = [
            layer.self_attn.register_forward_hook(
                lambda _, __, outputs: self._add(outputs[1][0, :, first:])
            )
            for layer in self._layers
        ]
        try:
            return super()._run(inputs_embeds, positions, **further)
        finally:
            for hook in hooks:
                hook.remove()

    def _add(self, rows: torch.Tensor) -> None:
        """Of one layer, (heads, rows, keys)."""
        self.visual_scores += rows.double().sum(dim=(0, 1)).numpy()[self._visual]
