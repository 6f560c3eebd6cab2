"""How the gate's side reads a sequence of which a decoder drops tokens between its layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from pocketvlm.artifact.stages import GIVEN, Stage
from pocketvlm_export import upstream
from pocketvlm_export.verification.decoder_stages import Read, find_stage_oracle
from pocketvlm_export.verification.oracles import Ranking

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dropping:
    """What of a prompt went on at a stage.

    Attributes:
        visual: positions of the pictures' tokens that had come so far, int64 (v,).
        ranking: of those, in that order.
        keep: how many of them went on.
        before: positions of all tokens that had come so far, ascending.
    """

    visual: Ints
    ranking: Ranking
    keep: int
    before: Ints

    @property
    def kept(self) -> Ints:
        """Positions of all tokens that went on, ascending."""
        return np.setdiff1d(self.before, self.lost)

    @property
    def lost(self) -> Ints:
        """Positions of those that did not."""
        return np.delete(self.visual, self.ranking.kept(self.keep))


def gate_scores(stages: Sequence[Stage], tokens: int) -> npt.NDArray[np.float32] | None:
    """Return scores for the visual tokens of the gate's prompt, the same at every call, (tokens,);
    None where no stage is given any."""
    if all(stage.by != GIVEN for stage in stages):
        return None
    return np.random.default_rng(20241203).random(tokens, dtype=np.float32)


class MaskedReader:
    """One sequence read in the token-mask form of stages (as in arXiv 2403.06764).

    transformers' own layers run over every token, and from a stage on the mask hides those that are
    dropped. Nothing is gathered here and every layer's cache is of one length, so that no mistake
    is made on both sides.

    Attributes:
        dropping: what of the prompt `prefill` kept, stage by stage.
    """

    def __init__(
        self,
        model: Any,
        stages: Sequence[Stage],
        given: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """``model`` runs with eager attention, which returns its maps; ``given`` are scores of the
        prompt's visual tokens, (v,), for stages that rank by such."""
        self.dropping: list[Dropping] = []
        self._model = model
        self._stages = tuple(stages)
        self._given = given
        self._cache = DynamicCache()
        self._visual: Ints = np.zeros(0, dtype=np.int64)  # positions
        self._maps: dict[int, torch.Tensor] = {}  # by layer, (1, heads, S, S)

    def prefill(
        self, inputs_embeds: torch.Tensor, is_visual: npt.NDArray[np.bool_]
    ) -> torch.Tensor:
        """Read a prompt about one picture, (1, S, hidden); returns the last token's logits
        (vocab,)."""
        self._visual = np.flatnonzero(is_visual)
        hooks = []
        for stage in self._stages:
            attention = self._model.model.layers[stage.layer - 1].self_attn
            hooks.append(attention.register_forward_hook(self._recording(stage.layer - 1)))
        try:
            return self.step(inputs_embeds)
        finally:
            self._maps.clear()
            for hook in hooks:
                hook.remove()

    def step(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Read what follows, (1, n, hidden); returns the last token's logits (vocab,)."""
        decoder = self._model.model
        past, tokens = self._cache.get_seq_length(), inputs_embeds.shape[1]
        columns = torch.arange(past + tokens)
        hidden, visible = inputs_embeds, columns[None, :] <= columns[past:, None]  # (n, past + n)
        angles = decoder.rotary_emb(hidden, columns[None, past:])
        begins = {stage.layer: number for number, stage in enumerate(self._stages)}
        for number, layer in enumerate(decoder.layers):
            if number in begins:
                stage = begins[number]
                if stage == len(self.dropping):  # in a prefill
                    self._drop(self._stages[stage], inputs_embeds)
                lost = torch.from_numpy(self.dropping[stage].lost)
                visible = visible & ~torch.isin(columns, lost)
            mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[
                None, None
            ]
            hidden = upstream.run_decoder_layer(layer, hidden, mask, angles, self._cache)
        logits: torch.Tensor = self._model.lm_head(decoder.norm(hidden[:, -1:]))[0, 0]
        return logits

    def _recording(self, layer: int) -> Any:
        def record(_module: Any, _inputs: Any, outputs: Any) -> None:
            self._maps[layer] = outputs[1]

        return record

    def _drop(self, stage: Stage, inputs_embeds: torch.Tensor) -> None:
        """Choose by a whole map: ties to the lower index, everything that is not a picture kept."""
        so_far = self.dropping[-1].kept if self.dropping else np.arange(inputs_embeds.shape[1])
        read = Read(
            inputs_embeds[0].double().numpy(),
            self._visual,
            self._maps[stage.layer - 1][0].double().numpy(),
            None if self._given is None else self._given.astype(np.float64),
        )
        scores = find_stage_oracle(stage.by)(read)
        left = np.isin(self._visual, so_far)
        visual = self._visual[left]
        keep = min(stage.keep, len(visual))
        self.dropping.append(Dropping(visual, Ranking(scores[left]), keep, so_far))
