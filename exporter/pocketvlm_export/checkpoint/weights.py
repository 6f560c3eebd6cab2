"""Knows how to read single tensors out of safetensors files; never opens a pickle."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from pocketvlm import PocketVLMError

SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Weights:
    """The tensors of a checkpoint by component-wise name, read one at a time from memory-mapped files.

    Attributes:
        names: component-wise name -> (file, stored name, shape).
    """

    def __init__(self, folder: Path, canonical: Callable[[str], str | None]) -> None:
        """Index every weights file of ``folder``.

        Raises:
            PocketVLMError: no safetensors, a missing or damaged shard, a weight of the model that is not floating
                point.
        """
        self.folder = folder
        self.names: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
        for file in _weight_files(folder):
            for stored, (kind, shape) in _read_header(file).items():
                name = canonical(stored)
                if name is not None:
                    _check_type(file, stored, kind)
                    self.names[name] = (file, stored, shape)

    def parameters(self, prefix: str = "") -> int:
        """Count the elements of all tensors whose name begins with ``prefix``."""
        shapes = (shape for name, (_, _, shape) in self.names.items() if name.startswith(prefix))
        return sum(torch.Size(shape).numel() for shape in shapes)

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor as float32. A float32 file is mapped, not copied."""
        if name not in self.names:
            raise PocketVLMError(
                f"{self.folder} lacks the weight {name}: the checkpoint is incomplete or of another layout; "
                "download it again"
            )
        file, stored, _ = self.names[name]
        # The file is opened for this tensor alone, so that pages already converted do not stay mapped.
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(stored).to(torch.float32)

    def component(self, prefix: str, *, without: str = r"(?!)") -> dict[str, torch.Tensor]:
        """Return the tensors under ``prefix``, the prefix removed; names matching ``without`` are left on disk."""
        return {
            name.removeprefix(prefix): self.tensor(name)
            for name in self.names
            if name.startswith(prefix) and not re.match(without, name.removeprefix(prefix))
        }


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read, in its order of preference; any other safetensors last."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / _INDEX
    if index.exists():
        try:
            listed = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise PocketVLMError(f"{index} is not a safetensors index: download the checkpoint again") from error
        for file in listed:
            if not isinstance(file, str) or Path(file).name != file:
                raise PocketVLMError(f"{index} names {file!r}, which is no plain file name: the checkpoint is unsafe")
            if not (folder / file).is_file():
                raise PocketVLMError(f"{folder} lacks the shard {file} named in {_INDEX}: download the rest of it")
        return [folder / file for file in listed]
    check_names(str(folder), (path.name for path in folder.iterdir()))
    return sorted(folder.glob("*.safetensors"))


def check_names(place: str, names: Iterable[str]) -> None:
    """Refuse a checkpoint whose file names show no weights that can be read; raises `PocketVLMError`."""
    listed = sorted(names)
    if any(name.endswith(".safetensors") for name in listed):
        return
    pickles = [name for name in listed if name.endswith(_PICKLES)]
    if pickles:
        raise PocketVLMError(
            f"{place} holds pickle weights only ({pickles[0]}), which can run code and are never loaded: "
            "save the checkpoint as safetensors (model.save_pretrained with safetensors, or the Hub's convert space)"
        )
    raise PocketVLMError(f"{place} holds no *.safetensors weights: give a complete checkpoint")


def _read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Element type and shape of each tensor, by stored name."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
            return {name: (piece.get_dtype(), tuple(piece.get_shape())) for name, piece in slices.items()}
    except (SafetensorError, OSError) as error:
        raise PocketVLMError(f"{file} is truncated or damaged ({error}): download it again") from error


def _check_type(file: Path, stored: str, kind: str) -> None:
    if kind not in _DTYPES and not stored.endswith("position_ids"):
        raise PocketVLMError(
            f"{file.name} stores {stored} as {kind}: only {', '.join(_DTYPES)} checkpoints can be exported; "
            "give the unquantized one"
        )
