"""Knows the types that a GGUF decoder can be exported in: sizes, llama.cpp's names, what they may
lose; imports neither torch nor gguf."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GgufType:
    """How a GGUF file stores its matrices; a new one is an entry of `GGUF_TYPES`.

    Attributes:
        name: as options, file names and the manifest have it.
        bits: a parameter in the file, scales of its block included.
        head_bits: a parameter of the head, to which llama.cpp gives more.
        file_type: llama.cpp's name, as in ``LLAMA_FTYPE_MOSTLY_Q8_0`` and
            ``gguf.LlamaFileType.MOSTLY_Q8_0``.
        written: element type of the matrices where the exporter writes them itself; None where
            llama.cpp makes the file of that in float32.
        logits_cosine: least cosine of the logits at all positions, as
            `pocketvlm_export.precisions.Precision.logits_cosine`.
        same_tokens: whether the answer must be the checkpoint's, where that is not a near tie.
    """

    name: str
    bits: float
    head_bits: float
    file_type: str
    written: Literal["float32", "float16"] | None = None
    logits_cosine: float = 1.0
    same_tokens: bool = False


# fmt: off
GGUF_TYPES: Mapping[str, GgufType] = {kind.name: kind for kind in (
    GgufType("f32", 32.0, 32.0, "ALL_F32", "float32", same_tokens=True),
    GgufType("f16", 16.0, 16.0, "MOSTLY_F16", "float16", logits_cosine=0.999, same_tokens=True),
    GgufType("q8_0", 8.5, 8.5, "MOSTLY_Q8_0", logits_cosine=0.95),
    GgufType("q4_0", 4.5, 8.5, "MOSTLY_Q4_0", logits_cosine=0.5),
    GgufType("q4_k_m", 5.2, 8.5, "MOSTLY_Q4_K_M", logits_cosine=0.5),
)}
# fmt: on
DEFAULT_GGUF_TYPE = "q8_0"
# The type that the parity gate compares with the checkpoint, and that quantized ones are made of.
GATE_GGUF_TYPE = "f32"
