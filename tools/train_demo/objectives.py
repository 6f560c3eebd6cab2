"""Knows what the tower learns from: whole captions for [CLS], short phrases for the parts of the
picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import CLIPModel, PreTrainedTokenizerFast

from train_demo.data import caption_ids
from train_demo.scenes import CONTENTS, PLACES, Scene


class Eyes(nn.Module):
    """A CLIP tower that gives both what LLaVA reads and what CLIP reads."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, 3, 96, 96) -> patches of the second-to-last layer (batch, 144, 128), pooled [CLS]
        (batch, 128)."""
        tower = self.tower
        with torch.autocast("cpu", torch.bfloat16):
            hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))
            for layer in tower.encoder.layers[:-1]:
                hidden = layer(hidden, None)
            return hidden[:, 1:], tower.post_layernorm(tower.encoder.layers[-1](hidden, None)[:, 0])


class Contrast(nn.Module):
    """CLIP's text side: captions, and how well they fit pooled pictures."""

    def __init__(self, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.text_model, self.text_projection = clip.text_model, clip.text_projection
        self.visual_projection, self.logit_scale = clip.visual_projection, clip.logit_scale
        self.tokenizer = tokenizer

    def forward(self, scenes: list[Scene], pooled: torch.Tensor) -> torch.Tensor:
        """Scaled cosines, (captions, pictures)."""
        ids = caption_ids(scenes, self.tokenizer)
        with torch.autocast("cpu", torch.bfloat16):
            text = self.text_projection(_read(self.text_model, ids, self.tokenizer.pad_token_id))
            image = self.visual_projection(pooled)
        image, text = (nn.functional.normalize(x.float(), dim=-1) for x in (image, text))
        return self.logit_scale.exp().clamp(max=100) * text @ image.T

    def loss(self, scenes: list[Scene], pooled: torch.Tensor) -> torch.Tensor:
        """CLIP's symmetric cross-entropy."""
        scores, target = self(scenes, pooled), torch.arange(len(scenes))
        return (
            nn.functional.cross_entropy(scores, target)
            + nn.functional.cross_entropy(scores.T, target)
        ) / 2


class Regions(nn.Module):
    """CLIP's text side against the nine cells of the picture: which phrase says what lies in
    each?"""

    def __init__(self, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.text_model, self.text_projection = clip.text_model, clip.text_projection
        self.projection = nn.Linear(
            clip.config.vision_config.hidden_size, clip.config.projection_dim
        )
        self.scale = nn.Parameter(torch.tensor(2.6))
        self.contents, self.places = (
            _phrase_ids(phrases, tokenizer) for phrases in (CONTENTS, PLACES)
        )
        self.pad = tokenizer.pad_token_id

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Patches (batch, 144, 128) -> logits (batch, 9, phrases)."""
        grid = features.unflatten(1, (3, 4, 3, 4)).mean((2, 4)).flatten(1, 2)  # (batch, 9, 128)
        return self._likeness(grid, self.contents)

    def place_loss(self, features: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of every patch (batch, 144, 128) over the nine places: in which does it
        lie?"""
        logits = self._likeness(features, self.places)  # (batch, 144, 9)
        cells = torch.arange(9).view(3, 1, 3, 1).expand(3, 4, 3, 4).reshape(-1)
        return nn.functional.cross_entropy(logits.flatten(0, 1), cells.repeat(len(features)))

    def _likeness(self, features: torch.Tensor, phrases: torch.Tensor) -> torch.Tensor:
        """Scaled cosines of features (..., 128) and phrases, token ids (phrases, length)."""
        with torch.autocast("cpu", torch.bfloat16):
            text = self.text_projection(_read(self.text_model, phrases, self.pad))
            image = self.projection(features)
        image, text = (nn.functional.normalize(x.float(), dim=-1) for x in (image, text))
        return self.scale.exp() * image @ text.T

    def loss(self, scenes: list[Scene], features: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the phrases; empty cells, the many, count as much in all as those with
        objects."""
        logits, targets = self(features).flatten(0, 1), self.targets(scenes).flatten()
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        return losses[targets > 0].mean() + losses[targets == 0].mean()

    @staticmethod
    def targets(scenes: list[Scene]) -> torch.Tensor:
        """The phrase of each cell, int64 (scenes, 9); 0 where it is empty."""
        cells = torch.zeros(len(scenes), 9, dtype=torch.long)
        for row, scene in zip(cells, scenes, strict=True):
            for thing in scene.things:
                row[thing.cell] = CONTENTS.index(thing.name)
        return cells


def _phrase_ids(phrases: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Token ids of short phrases with their end token, padded behind, int64 (phrases, longest)."""
    ids = [[*tokenizer(phrase).input_ids, tokenizer.eos_token_id] for phrase in phrases]
    longest = max(map(len, ids))
    return torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in ids])


def _read(text_model: nn.Module, ids: torch.Tensor, pad: int) -> torch.Tensor:
    """What the text tower makes of texts, token ids (texts, length): its state at the end token,
    (texts, 128).

    Not its own ``pooler_output``: with end token 2 transformers takes the highest id for the end,
    as CLIP's first vocabulary had it, and reads a text only up to there.
    """
    mask = ids != pad
    states = text_model(input_ids=ids, attention_mask=mask).last_hidden_state
    read: torch.Tensor = states[torch.arange(len(ids)), mask.sum(1) - 1]
    return read
