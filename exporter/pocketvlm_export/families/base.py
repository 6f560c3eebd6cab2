"""Knows what the exporter must learn about a VLM family, whatever the family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from pocketvlm.layouts import Medium
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.spec import VLMSpec


class Family(Protocol):
    """One VLM family: how its configuration reads, how its weights are named, how its parts are
    built.

    Every ``load_*`` returns a float32 module in eval mode and reads no weights but its own.
    ``processor`` is the name of transformers' class, ``medium`` what its checkpoints read.
    """

    model_type: str
    processor: str
    medium: Medium

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """Check a configuration and return its dimensions; raises `CheckpointError` for what is not
        supported."""

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """Return ``spec`` with what only the tokenizer's and the image processor's files in
        ``folder`` state.

        Most families have nothing to add. Raises `CheckpointError` for what is not supported.
        """

    def canonical(self, stored: str) -> str | None:
        """Return the component-wise name of a stored weight: ``vision_tower.``, ``projector.``,
        ``decoder.`` + rest."""

    def load_tower(
        self, weights: Weights, spec: VLMSpec, *, layers: int, attention: str
    ) -> PreTrainedModel:
        """Return the vision tower cut after ``layers`` encoder layers."""

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """Return the projector: (..., features) -> (..., decoder hidden)."""

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """Return transformers' own module from the features of all patches to those of all tokens,
        for the parity gate.

        Where each patch is a token it is the projector: (B, patches, C) -> (B, N, decoder hidden).
        """

    def load_constants(self, weights: Weights, spec: VLMSpec) -> Mapping[str, torch.Tensor]:
        """Return what its layouts read beside features, by name, (decoder hidden,) each; none for
        most families."""

    def load_decoder(self, weights: Weights, spec: VLMSpec, *, attention: str) -> PreTrainedModel:
        """Return the causal language model without its input embedding: it is fed
        ``inputs_embeds``."""

    def load_embedding(self, weights: Weights, spec: VLMSpec) -> nn.Embedding:
        """Return the input embedding, (vocab, hidden)."""
