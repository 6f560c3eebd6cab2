"""Knows what a checkpoint is that is written file by file as its publisher wrote it, not as
transformers would save it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText

from make_checkpoint.weights import write_weights

Json = dict[str, Any]


@dataclass(frozen=True)
class HubPreset:
    """One checkpoint's files, by their own keys.

    ``vision`` and ``text`` are what ``config.json`` says of tower and decoder, wherever the family
    puts it, and ``model`` the rest of it. ``pictures`` is ``preprocessor_config.json`` and
    ``generation`` is ``generation_config.json``, both without what follows from the tokenizer.
    ``ties`` says that no output table is stored. ``residual`` and ``embedding`` are those of
    `Preset`; ``norm`` is the mean of the decoder's norms, 0 where it adds 1 to them.
    """

    family: str
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    pictures: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    ties: bool = False
    residual: float = 1.0
    embedding: float = 0.5
    norm: float = 1.0

    def but(self, **changes: Any) -> "HubPreset":
        """Return a copy with mappings merged in and other fields replaced, as `Preset.but`."""
        merged: dict[str, Any] = {
            name: {**getattr(self, name), **value} if isinstance(value, Mapping) else value
            for name, value in changes.items()
        }
        return replace(self, **merged)


@dataclass(frozen=True)
class HubFamily:
    """The files that a family's publisher wrote.

    Attributes:
        tokenizer: makes the preset's tokenizer.
        files: every JSON file and template by name, of (preset, tokenizer, dtype).
        layout: how its weights are named, of `make_checkpoint.weights.LAYOUTS`.
    """

    tokenizer: Callable[[HubPreset], Tokenizer]
    files: Callable[[HubPreset, Tokenizer, str], Mapping[str, Json | str]]
    layout: str


def write_hub_checkpoint(
    preset: HubPreset,
    family: HubFamily,
    folder: Path,
    *,
    seed: int,
    dtype: str,
    layout: str,
    shard_bytes: int,
) -> None:
    """Write the files and the weights; ``layout`` "classic" names these as published."""
    tokenizer = family.tokenizer(preset)
    for name, content in family.files(preset, tokenizer, dtype).items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    write_weights(
        hub_shapes(preset, folder),
        folder,
        seed=seed,
        dtype=getattr(torch, dtype),
        layout=family.layout if layout == "classic" else layout,
        shard_bytes=shard_bytes,
        residual=preset.residual,
        embedding=preset.embedding,
        norm=preset.norm,
    )


def added_tokens(tokenizer: Tokenizer) -> Json:
    """``added_tokens_decoder`` of tokenizer_config.json, by id."""
    return {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }


def hub_shapes(preset: HubPreset, folder: Path) -> dict[str, torch.Size]:
    """Shape of every stored weight of the checkpoint whose ``config.json`` lies in ``folder``, by
    the name that transformers 5 gives it in memory; nothing is allocated."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    if preset.ties:
        shapes.pop("lm_head.weight")
    return shapes
