"""The embedding graph: token ids to the vectors that the decoder reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pocketvlm.artifact import metadata
from pocketvlm_export.graphs.base import BATCH


class EmbedTokensGraph:
    """input_ids int64 (B, sequence) -> inputs_embeds float32 (B, sequence, hidden)."""

    kind = metadata.EMBED_TOKENS
    input_names: Sequence[str] = ("input_ids",)
    output_names: Sequence[str] = ("inputs_embeds",)
    dynamic_axes: tuple[Any, ...] = ({0: BATCH, 1: "sequence_length"},)
    output_axes: Mapping[str, Mapping[int, str]] = {
        "inputs_embeds": {0: BATCH, 1: "sequence_length"}
    }

    def __init__(self, embedding: nn.Module) -> None:
        self.module: nn.Module = embedding

    def sample_inputs(self) -> tuple[torch.Tensor, ...]:
        """Return two sequences of three ids."""
        return (torch.zeros(2, 3, dtype=torch.int64),)
