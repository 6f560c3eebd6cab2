"""Decoders of transformers' models as GGUF files, written as an export writes them."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch

from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.gguf import write_gguf
from support import tiny_tokenizers


class Weights:
    """A decoder's weights under the names that checkpoints have them."""

    def __init__(self, model: torch.nn.Module, prefixes: Mapping[str, str]) -> None:
        self._tensors = {
            ours + name.removeprefix(theirs): value.detach()
            for name, value in model.state_dict().items()
            for theirs, ours in prefixes.items()
            if name.startswith(theirs)
        }
        self.names = {
            name: (None, name, tuple(value.shape)) for name, value in self._tensors.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def write_model(
    model: torch.nn.Module,
    spec: DecoderSpec,
    folder: Path,
    *,
    kind: str = "f32",
    prefixes: Mapping[str, str],
) -> Path:
    """Write a file into ``folder``, beside a tokenizer of 256 bytes."""
    core = tiny_tokenizers.byte_level("qwen2")
    texts = folder / "texts"
    texts.mkdir(parents=True)
    tiny_tokenizers.save(core, texts)
    (texts / "config.json").write_text("{}")
    (texts / "chat_template.jinja").write_text("")
    checkpoint = SimpleNamespace(
        spec=SimpleNamespace(decoder=spec),
        weights=Weights(model, prefixes),
        source=SimpleNamespace(name="tiny"),
    )
    file = folder / f"decoder-{kind}.gguf"
    write_gguf(checkpoint, texts, file, kind, 2)
    return file
