"""Knows how llama.cpp makes a smaller GGUF file out of one in float32."""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

from pocketvlm.decoders.llama_cpp import library
from pocketvlm.errors import EngineError
from pocketvlm_export.gguf_types import GGUF_TYPES

_LOOK_EVERY = 0.2  # seconds between looks at how long the file has grown


def quantize_gguf(
    source: Path,
    target: Path,
    kind: str,
    expected: int,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Write ``target`` as ``kind`` from the float32 file ``source``.

    Rows that a type's blocks do not divide become another type of similar size, which llama.cpp
    chooses.

    Args:
        source: a file of float32 matrices.
        target: the file, replaced where it exists.
        kind: a type that llama.cpp makes.
        expected: how large the file will be, in bytes, near enough for progress.
        progress: called now and then with the part that is written, up to 1.

    Raises:
        PocketVLMError: llama-cpp-python is not installed, or llama.cpp gave up.
    """
    library()  # refuses here, not in the thread
    code: list[int] = []
    worker = threading.Thread(
        target=lambda: code.append(_quantize(source, target, kind)), daemon=True
    )
    # In a thread of its own, so that an interrupt is heard while llama.cpp works.
    worker.start()
    while worker.is_alive():
        worker.join(_LOOK_EVERY)
        if target.exists():
            progress(min(1.0, target.stat().st_size / expected))
    if code != [0]:
        raise EngineError(
            f"llama.cpp could not write {target.name} (code {code[0] if code else 'unknown'})",
            advice="free some disk space, or leave the type out of --gguf-type",
            setting="gguf_type",
        )
    progress(1.0)


def _quantize(source: Path, target: Path, kind: str) -> int:
    llama_cpp = library()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{GGUF_TYPES[kind].file_type}")
    done: int = llama_cpp.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)
    )
    return done
