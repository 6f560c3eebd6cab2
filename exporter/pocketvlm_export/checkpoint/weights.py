"""Knows how to read single tensors out of safetensors files; never opens a pickle."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from pocketvlm.errors import CheckpointError
from pocketvlm_export.checkpoint.headers import Header, damaged

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Weights:
    """The tensors of a checkpoint by component-wise name, read one at a time from memory-mapped
    files.

    Attributes:
        names: component-wise name -> (file, stored name, shape).
        unread: stored names that are not a component's.
    """

    def __init__(
        self, folder: Path, headers: Mapping[str, Header], canonical: Callable[[str], str | None]
    ) -> None:
        """Index the weights files of ``folder`` by their headers; the files need not be there until
        one is read.

        Raises:
            PocketVLMError: a weight of the model is not floating point.
        """
        self.folder = folder
        self.names: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
        self.unread: list[str] = []
        for file, header in headers.items():
            for stored, (kind, shape) in header.items():
                name = canonical(stored)
                if name is None:
                    self.unread.append(stored)
                    continue
                _check_type(file, stored, kind)
                self.names[name] = (folder / file, stored, shape)

    def parameters(self, prefix: str = "") -> int:
        """Count the elements of all tensors whose name begins with ``prefix``."""
        shapes = (shape for name, (_, _, shape) in self.names.items() if name.startswith(prefix))
        return sum(torch.Size(shape).numel() for shape in shapes)

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor as float32. A float32 file is mapped, not copied."""
        if name not in self.names:
            raise CheckpointError(
                f"{self.folder} lacks the weight {name} (it is incomplete, or of another layout)",
                advice="download it again",
            )
        file, stored, _ = self.names[name]
        # The file is opened for this tensor alone, so that pages already converted do not stay
        # mapped.
        with damaged(file), safe_open(file, framework="pt") as opened:
            return opened.get_tensor(stored).to(torch.float32)

    def component(self, prefix: str, *, without: str = r"(?!)") -> dict[str, torch.Tensor]:
        """Return the tensors under ``prefix``, the prefix removed; names matching ``without`` are
        left on disk."""
        return {
            name.removeprefix(prefix): self.tensor(name)
            for name in self.names
            if name.startswith(prefix) and not re.match(without, name.removeprefix(prefix))
        }


def _check_type(file: str, stored: str, kind: str) -> None:
    if kind not in _DTYPES and not stored.endswith("position_ids"):
        raise CheckpointError(
            f"{file} stores {stored} as {kind}",
            expected=f"one of {', '.join(_DTYPES)}",
            advice="give the unquantized checkpoint",
        )
