"""Knows how the projector begins: with patches that say in the decoder's own words what covers
them, where they lie and which colour it has. No decoder is run for it, so it takes a minute.

As RegionCLIP (arXiv 2112.09106) against frozen word embeddings; LLaVA's first stage does the same
through the decoder, with half a million captions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from train_demo.scenes import PLACES
from train_reference.features import Encoded
from train_reference.scenes import IMAGE_SIZE, Scene
from train_reference.things import COLOURS, NOUNS

NOTHING = "photo"  # what a patch shows that nothing was pasted on
_COVERED = 0.5  # of a patch: less is nothing
PATCHES = 4096  # of a batch


class Words(nn.Module):
    """Projected patches against embeddings of words."""

    def __init__(
        self, projector: nn.Module, embeddings: torch.Tensor, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        self.projector = projector
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.length = float(embeddings.norm(dim=-1).median())
        mean = embeddings.mean(0)
        self.nouns, self.places, self.colours = (
            nn.functional.normalize(_embed(words, embeddings, tokenizer) - mean, dim=-1)
            for words in ((NOTHING, *NOUNS), PLACES, COLOURS)
        )

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Features (patches, hidden) -> projected, and logits over nouns, places and colours."""
        projected = self.projector(features)
        # Not the cosine: three words share one vector.
        scaled = self.scale.exp() * projected / self.length
        return projected, [scaled @ words.T for words in (self.nouns, self.places, self.colours)]

    def loss(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy against ``targets`` int64 (patches, 3), -100 where there is none; lengths
        are held near those of words, which is what the decoder expects."""
        projected, logits = self(features)
        entropy = [
            nn.functional.cross_entropy(one, target)
            for one, target in zip(logits, targets.T, strict=True)
            if (target >= 0).any()
        ]
        length = projected.norm(dim=-1) / self.length - 1
        return torch.stack([*entropy, length.square().mean()]).sum()

    @torch.no_grad()
    def right(self, features: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Share of patches whose word is the likeliest; of nouns where something was pasted."""
        _, logits = self(features)
        chosen = torch.stack([one.argmax(-1) for one in logits], 1) == targets
        asked = targets >= 0
        asked[:, 0] = targets[:, 0] > 0
        return {
            name: round(float(chosen[:, i][asked[:, i]].float().mean()), 4)
            for i, name in enumerate(("noun", "place", "colour"))
        }


def targets_of(scenes: Sequence[Scene], side: int) -> torch.Tensor:
    """For every patch which noun (0: nothing), place and colour it has, int64 (scenes, side^2,
    3)."""
    edge = IMAGE_SIZE / side
    starts = np.arange(side) * edge
    targets = np.full((len(scenes), side, side, 3), -100)
    targets[..., 0] = 0
    cells = np.arange(side) * 3 // side
    targets[..., 1] = cells[:, None] * 3 + cells
    for grid, scene in zip(targets, scenes, strict=True):
        for thing in scene.things:
            across, down = (
                np.clip(
                    np.minimum(starts + edge, at + thing.edge) - np.maximum(starts, at), 0, edge
                )
                for at in (thing.left, thing.top)
            )
            covered = down[:, None] * across >= _COVERED * edge**2
            grid[covered, 0] = 1 + NOUNS.index(thing.noun)
            grid[covered, 2] = COLOURS.index(thing.colour) if thing.colour else -100
    return torch.from_numpy(targets).flatten(1, 2)


def draw_patches(
    encoded: Encoded, indices: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of these scenes with their targets, as many of pasted things as of photographs."""
    features = encoded.pooled(indices, int(encoded.features.shape[1] ** 0.5)).flatten(0, 1)
    side = int(encoded.features.shape[1] ** 0.5)
    targets = targets_of([encoded.scenes[i] for i in indices], side).flatten(0, 1)
    pasted = np.flatnonzero(targets[:, 0].numpy() > 0)
    bare = np.flatnonzero(targets[:, 0].numpy() == 0)
    half = min(PATCHES // 2, len(pasted), len(bare))
    chosen = torch.from_numpy(
        np.concatenate([rng.choice(part, half, replace=False) for part in (pasted, bare)])
    )
    return features[chosen], targets[chosen]


def _embed(
    words: Sequence[str], embeddings: torch.Tensor, tokenizer: PreTrainedTokenizerFast
) -> torch.Tensor:
    """Of each word the mean of its tokens, as they are within a sentence."""
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
    return torch.stack([embeddings[row].mean(0) for row in ids])
