"""What a GGUF file holds, read with the gguf package; and the mark of tests that need llama.cpp
itself."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

HAS_LLAMA_CPP = find_spec("llama_cpp") is not None
needs_llama_cpp = pytest.mark.skipif(
    not HAS_LLAMA_CPP, reason="llama-cpp-python is not installed: pip install 'pocketvlm[llama]'"
)


def read_gguf(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors as float32 or in raw blocks, and metadata, by name."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    fields = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return tensors, fields


def tensor_types(path: Path) -> set[str]:
    """Names of the element types that a file's tensors have."""
    return {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
