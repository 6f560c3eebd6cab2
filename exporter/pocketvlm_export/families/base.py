"""Knows what the exporter must learn about a VLM family, whatever the family."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from pocketvlm.layouts import Medium
from pocketvlm_export.checkpoint.weights import Weights


@dataclass(frozen=True)
class VisionSpec:
    """A vision tower and which of its layers the decoder reads.

    Attributes:
        config: the tower's own configuration.
        image_size: (height, width) in pixels.
        tokens: N, tokens of a picture that the decoder may read, [CLS] not counted.
        has_cls: whether token 0 is a [CLS] token.
        feature_layers: indices into the tower's hidden states (0 is the embeddings, i the output of
            layer i - 1), in the order in which their features are concatenated; all >= 1.
        merge: edge of the square of patches whose features, side by side row by row, the projector
            reads as one token; 1 where each patch is a token.
    """

    config: PretrainedConfig
    image_size: tuple[int, int]
    tokens: int
    has_cls: bool
    feature_layers: tuple[int, ...]
    merge: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens: as the picture is shaped, ``tokens`` in all; else a single
        row."""
        height, width = self.image_size
        columns = math.isqrt(self.tokens * width // height)
        rows = self.tokens // columns
        return (rows, columns) if rows * columns == self.tokens else (1, self.tokens)

    @property
    def sequence(self) -> int:
        """How many tokens the tower's layers read: every patch, and [CLS]."""
        return self.tokens * self.merge**2 + int(self.has_cls)

    @property
    def score_layer(self) -> int:
        """0-based encoder layer whose attention ranks patches: the one whose output is the last
        listed feature."""
        return self.feature_layers[-1] - 1

    @property
    def depth(self) -> int:
        """Encoder layers that are needed at all; the layers above the deepest feature are not
        exported."""
        return max(self.feature_layers)

    @property
    def intermediate(self) -> int:
        """Width of the hidden layer of each MLP; DINOv2's configuration states it as a ratio."""
        stated = getattr(self.config, "intermediate_size", None)
        return int(stated or self.config.hidden_size * self.config.mlp_ratio)


@dataclass(frozen=True)
class DecoderSpec:
    """A language model's dimensions; ``context`` is the longest sequence in tokens."""

    config: PretrainedConfig
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    context: int
    tied: bool


@dataclass(frozen=True)
class LayoutSpec:
    """One way in which a family's pictures become tiles and slots.

    Attributes:
        stated: ``vision.layout`` of the manifest: the name of a layout of `pocketvlm.layouts`, and
            its options.
        exact: with every token kept it gives what transformers gives; without pruning no other is
            exported.
        constants: outputs of the vision graph that it reads beside the features, see
            `Family.load_constants`.
        with_cls: the decoder reads [CLS] of each tile too, in front of its patches; under it
            nothing is pruned.
    """

    stated: Mapping[str, Any]
    exact: bool = True
    constants: tuple[str, ...] = ()
    with_cls: bool = False

    @property
    def one_tile(self) -> bool:
        """Whether a picture is one tile, which is all that clients other than this runtime are
        promised."""
        return self.stated["name"] == "single"


# The layout of the families whose pictures are one tile each.
ONE_TILE: Mapping[str, LayoutSpec] = {"single": LayoutSpec({"name": "single"})}


@dataclass(frozen=True)
class VLMSpec:
    """A checkpoint as the exporter reads it: parsed, checked, nothing loaded.

    ``layouts`` are those of its family by what ``--layout`` calls them, the default when pruning
    first. Token ``image_token_id`` takes the place of a picture or clip in a prompt.
    """

    family: "Family"
    config: PretrainedConfig
    vision: VisionSpec
    decoder: DecoderSpec
    image_token_id: int
    layouts: Mapping[str, LayoutSpec] = field(default_factory=lambda: ONE_TILE)

    def under(self, layout: LayoutSpec) -> Self:
        """Return what it is under a layout: where the decoder reads [CLS], that is a token like any
        other."""
        if not (layout.with_cls and self.vision.has_cls):
            return self
        return replace(
            self, vision=replace(self.vision, tokens=self.vision.tokens + 1, has_cls=False)
        )


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
