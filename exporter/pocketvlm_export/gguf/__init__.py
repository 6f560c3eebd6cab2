"""The decoder as a GGUF file for llama.cpp.

An architecture is one line of `architectures.ARCHITECTURES`, a type one of
`pocketvlm_export.gguf_types.GGUF_TYPES`.
"""

from pocketvlm_export.gguf.architectures import architecture, context_length
from pocketvlm_export.gguf.quantize import quantize_gguf
from pocketvlm_export.gguf.write import write_gguf

__all__ = [
    "architecture",
    "context_length",
    "quantize_gguf",
    "write_gguf",
]
