"""Knows how llama-cpp-python's low-level module is loaded, when what llama.cpp makes is freed, and
what it complained about."""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import os
import weakref
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from pocketvlm.errors import ArtifactError, EngineError

# llama.cpp has kept rows and columns of cached tokens, and written them into states, since the one
# in 0.3.17 (`llama_kv_cell_ext`): without them M-RoPE's pictures attend wrongly in a larger cache.
SUPPORTED = SpecifierSet(">=0.3.20,<0.4")
_INSTALL = "pip install 'pocketvlm[llama]'"
_MAX_BATCH = 512  # tokens
_LOG_ERROR = 4  # ggml_log_level
_PLANES = {8: 4, 40: 4}  # by llama_rope_type: M-RoPE, its frequencies in sections or interleaved

_log = logging.getLogger(__name__)
_complaints: list[str] = []  # llama.cpp's last error, for our messages
_callbacks: list[Any] = []  # what C calls must outlive every call
_loaded_by: list[int] = []  # the process in which llama.cpp's threads live


@functools.cache
def library() -> Any:
    """llama-cpp-python's low-level module, with llama.cpp's log turned to ours (level debug).

    Raises:
        PocketVLMError: it is not installed, has a version not known to work, or does not load.
    """
    try:
        installed = version("llama_cpp_python")
    except PackageNotFoundError as error:
        raise EngineError(
            "the decoder engine llama.cpp needs llama-cpp-python", advice=_INSTALL
        ) from error
    if not SUPPORTED.contains(installed, prereleases=True):
        raise EngineError(
            f"llama-cpp-python {installed} is installed, {SUPPORTED} is needed", advice=_INSTALL
        )
    try:
        lib = importlib.import_module("llama_cpp.llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"llama-cpp-python {installed} does not load ({error})", advice=_INSTALL
        ) from error
    _callbacks.append(lib.llama_log_callback(_on_log))
    lib.llama_log_set(_callbacks[-1], ctypes.c_void_p(0))
    lib.llama_backend_init()
    _loaded_by[:] = [os.getpid()]
    return lib


def check_process(threads: int) -> None:
    """Raise `EngineError` for several threads in a process that was forked after llama.cpp was
    loaded: it shares them with all its models, and they stayed behind."""
    if threads > 1 and _loaded_by and _loaded_by[0] != os.getpid():
        raise EngineError(
            "llama.cpp was loaded before this process was forked",
            advice="begin processes by spawn, or set threads to 1",
            setting="threads",
        )


class LlamaModel:
    """A model in llama.cpp's memory, freed when nothing needs it any more.

    Attributes:
        planes: numbers that llama.cpp reads of an embedding's position, 1 or 4.
        input_width: numbers that it reads of an embedding.

    Raises:
        PocketVLMError: llama.cpp cannot open the file.
    """

    def __init__(self, lib: Any, path: Path) -> None:
        options = with_settings(lib.llama_model_default_params(), n_gpu_layers=0)
        self.pointer = lib.llama_model_load_from_file(os.fsencode(path), options)
        if not self.pointer:
            raise ArtifactError(
                f"{path.name} cannot be opened by llama.cpp{complaint()}",
                advice="copy or export it again",
            )
        weakref.finalize(self, _free_model, lib, self.pointer, os.getpid())
        # Numbers that llama.cpp reads of the position of each embedding (`hparams.n_pos_per_embd`,
        # which it does not tell): time, row, column and an unused one, or one.
        self.planes = _PLANES.get(lib.llama_model_rope_type(self.pointer), 1)
        # What came before this call knew of no wider ones.
        width = getattr(lib, "llama_model_n_embd_inp", lib.llama_model_n_embd)
        self.input_width: int = width(self.pointer)


class LlamaContext:
    """A llama.cpp context: the cache of one sequence, and the batches that fill it. Where
    ``options`` allow two, the second is used to copy parts of the first.

    It is freed by `free`, or when nothing needs it any more. Its finalizer holds the model, so the
    model always outlives it.

    Attributes:
        capacity: tokens that it holds, as asked for.
        cells: tokens that llama.cpp has set memory aside for, at least ``capacity``.
        batch: tokens that it takes at once, and computes at once.
        planes: see `LlamaModel`.
        free: frees it; a second call does nothing. ``free.alive`` says whether it still is there.
    """

    def __init__(self, lib: Any, model: LlamaModel, capacity: int, options: dict[str, Any]) -> None:
        size = {"n_ctx": capacity, "n_batch": min(capacity, _MAX_BATCH)}
        self.pointer = lib.llama_init_from_model(
            model.pointer,
            with_settings(lib.llama_context_default_params(), **options, **size),
        )
        if not self.pointer:
            raise EngineError(
                f"llama.cpp cannot hold {capacity} tokens{complaint()}",
                advice="shorten the prompt, or free memory",
            )
        self.free = weakref.finalize(self, _free_context, lib, self.pointer, model, os.getpid())
        self._lib = lib
        self.capacity = capacity
        self.planes = model.planes
        self.cells: int = lib.llama_n_ctx(self.pointer)
        self.batch: int = min(lib.llama_n_batch(self.pointer), lib.llama_n_ubatch(self.pointer))

    def state_of(self, end: int | None = None) -> Any:
        """A copy of the state of its sequence before position ``end``; of all of it if that is None
        or layers are recurrent. None if llama.cpp gives none.

        Bytes as `llama_state_seq_set_data` takes them. Cells are shared with a second sequence of
        the context for as long as they are copied, so only those that are wanted are.
        """
        lib, sequence = self._lib, 0
        memory = lib.llama_get_memory(self.pointer)
        if end is not None and lib.llama_n_seq_max(self.pointer) > 1:
            sequence = 1
            lib.llama_memory_seq_cp(memory, 0, sequence, 0, end)
        try:
            state = (ctypes.c_uint8 * lib.llama_state_seq_get_size(self.pointer, sequence))()
            written = lib.llama_state_seq_get_data(self.pointer, state, len(state), sequence)
        finally:
            if sequence:
                lib.llama_memory_seq_rm(memory, sequence, -1, -1)
        return state if written == len(state) and written else None


# In a process that was forked since, what llama.cpp made is a copy whose threads stayed behind, and
# freeing it waits for them.


def _free_context(lib: Any, context: int, _model: LlamaModel, process: int) -> None:
    if os.getpid() == process:
        lib.llama_free(context)


def _free_model(lib: Any, model: int, process: int) -> None:
    if os.getpid() == process:
        lib.llama_model_free(model)


def with_settings(params: Any, **fields: Any) -> Any:
    """Default parameters with some set: ctypes would take a name that is not a field without a
    word."""
    for name, value in fields.items():
        if name not in {field for field, *_ in params._fields_}:
            raise EngineError(
                f"llama-cpp-python has no setting {name}, another version is needed",
                advice=_INSTALL,
            )
        setattr(params, name, value)
    return params


def _on_log(level: int, text: bytes | None, _data: Any) -> None:
    """llama.cpp's log: for us at debug level, its last error kept for a message."""
    if not (line := (text or b"").decode("utf-8", "replace").strip()):
        return
    _log.debug("%s", line)
    if level == _LOG_ERROR:
        _complaints[:] = [line]


def complaint() -> str:
    """What llama.cpp last complained about, in brackets, once."""
    try:
        line = _complaints.pop()
    except IndexError:
        return ""
    return f" ({line[:200]})"
