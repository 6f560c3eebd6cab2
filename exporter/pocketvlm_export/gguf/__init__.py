"""The decoder as a GGUF file for llama.cpp; an architecture is one line of `ARCHITECTURES`."""

from pocketvlm_export.gguf.architectures import ARCHITECTURES, architecture, context_length
from pocketvlm_export.gguf.quantize import quantize_gguf
from pocketvlm_export.gguf.write import WRITTEN_TYPES, write_gguf

__all__ = [
    "ARCHITECTURES",
    "WRITTEN_TYPES",
    "architecture",
    "context_length",
    "quantize_gguf",
    "write_gguf",
]
