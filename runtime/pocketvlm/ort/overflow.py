"""Knows whether products of bytes overflow on this CPU, and how ONNX Runtime is then set up."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import onnxruntime as ort

from pocketvlm.ort.settings import CPU_PROVIDER

# MatMulInteger of uint8 (4, 64) and int8 (64, 16), as an ONNX file: the runtime has no library that
# writes them.
_PRODUCT: Final = (
    b'\x08\n:\\\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01gZ\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02'
    b"\x08\x04\n\x02\x08@Z\x13\n\x01b\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08@\n\x02\x08\x10b\x13\n\x01y\x12\x0e\n\x0c"
    b"\x08\x06\x12\x08\n\x02\x08\x04\n\x02\x08\x10B\x04\n\x00\x10\x14"
)


def integer_options() -> dict[str, str]:
    """Session configuration entries that keep int8 graphs right on this CPU.

    x86 CPUs with AVX2 and without VNNI multiply unsigned by signed bytes by an instruction that
    adds two products in 16 bits. These are up to 2 x 255 x 127 and are cut at 32767. With
    ``session.x64quantprecision`` ONNX Runtime makes such weights unsigned when it opens a graph,
    and takes another instruction. Measured with 1.31 under ``qemu-x86_64 -cpu Haswell``: products
    of large weights are off by up to 31 % without it, by the 0.2 % of any other CPU with it. It is
    not for every CPU: with VNNI and AMX, where nothing overflows, an int8 CLIP-L tower took
    2.7 times as long. Weights of 7 bits (reduce_range) would avoid the overflow too, at the cost of
    a bit on every CPU.
    """
    return {"session.x64quantprecision": "1"} if overflows() else {}


@functools.cache
def overflows() -> bool:
    """Whether ONNX Runtime's product of the largest bytes is wrong here: asked, not read off the
    CPU's name."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_PRODUCT, options, providers=[CPU_PROVIDER])
    largest = {
        "a": np.full((4, 64), 255, dtype=np.uint8),
        "b": np.full((64, 16), 127, dtype=np.int8),
    }
    (product,) = session.run(None, largest)
    return bool((product != 64 * 255 * 127).any())
