"""Knows what the tower makes of scenes: the patch features that LLaVA reads, computed once and kept
on disk in half precision; a run that was stopped continues where it was."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Dinov2Model

from pocketvlm.files import replace_file
from pocketvlm_measure.progress import counter
from reference_vlm.tower import MEAN, STD
from train_reference.scenes import Scene, make_scene, render, scene_rng
from train_reference.things import Catalogue

_CHUNK = 32  # pictures between two notes of how far it is


@dataclass(frozen=True)
class Encoded:
    """Scenes with their features, float16 (n, patches, hidden), on disk."""

    scenes: list[Scene]
    features: np.ndarray

    def pooled(self, indices: np.ndarray, side: int) -> torch.Tensor:
        """Features of these scenes in float32, averaged to ``side`` x ``side``: (n, side^2,
        hidden)."""
        whole = torch.from_numpy(np.asarray(self.features[indices], dtype=np.float32))
        grid = int(whole.shape[1] ** 0.5)
        if side == grid:
            return whole
        parts = (side, grid // side, side, grid // side)
        return whole.unflatten(1, parts).mean((2, 4)).flatten(1, 2)

    def with_at_most(self, count: int) -> np.ndarray:
        """Indices of the scenes of at most ``count`` things."""
        return np.array([i for i, scene in enumerate(self.scenes) if len(scene.things) <= count])


def scenes_of(catalogue: Catalogue, split: str, count: int) -> list[Scene]:
    """The first ``count`` scenes of a split."""
    return [make_scene(catalogue, scene_rng(split, index)) for index in range(count)]


def pixel_values(pictures: list[Image.Image]) -> torch.Tensor:
    """What the processor makes of pictures that have the tower's size already."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.inference_mode()
def encode(
    tower: Dinov2Model, layer: int, catalogue: Catalogue, split: str, count: int, folder: Path
) -> Encoded:
    """Scenes of a split with the features behind ``layer``, counted from the end as LLaVA does."""
    scenes = scenes_of(catalogue, split, count)
    side = tower.config.image_size // tower.config.patch_size
    shape = (count, side**2, tower.config.hidden_size)
    path, noted = folder / f"{split}.f16", folder / f"{split}.done"
    done = int(noted.read_text()) if noted.exists() else 0
    folder.mkdir(parents=True, exist_ok=True)
    # "r+" lengthens a file that holds fewer scenes: a larger count continues where a smaller ended.
    features = np.memmap(path, np.float16, "r+" if done else "w+", shape=shape)
    started, first = time.process_time(), done
    with counter(total=count, desc=f"features of {split}", unit="picture", initial=done) as bar:
        while done < count:
            chunk = slice(done, min(count, done + _CHUNK))
            pictures = [render(scene, catalogue) for scene in scenes[chunk]]
            with torch.autocast("cpu", torch.bfloat16):
                states = tower(pixel_values(pictures), output_hidden_states=True).hidden_states
            features[chunk] = states[layer][:, 1:].float().numpy()
            features.flush()
            bar.update(chunk.stop - done)
            done = chunk.stop
            milliseconds = 1000 * (time.process_time() - started) / (done - first)
            bar.set_postfix(cpu_ms=f"{milliseconds:.0f}")
            replace_file(noted, f"{done}\n".encode())
    del features
    return Encoded(scenes, np.memmap(path, np.float16, "r", shape=shape))
