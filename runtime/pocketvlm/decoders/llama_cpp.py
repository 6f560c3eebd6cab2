"""Knows llama.cpp, the only module that does: a GGUF decoder through llama-cpp-python's low-level
calls.

llama.cpp ends the whole process where it is given what it does not expect, so everything is checked
before it is
asked: the file's header (`pocketvlm.decoders.gguf_header`), widths, token ids, batch sizes, room in
the context. Leave the environment variable OMP_WAIT_POLICY unset: ``passive`` halves llama.cpp's
speed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from packaging.specifiers import SpecifierSet

from pocketvlm.artifact import Artifact, pick_precision
from pocketvlm.decoders import EmbeddingSegment, Segment, TokenSegment, check_room, check_widths
from pocketvlm.decoders.gguf_header import expected_dimensions, read_header
from pocketvlm.decoders.sampling import check, check_finite
from pocketvlm.errors import EngineError
from pocketvlm.ort.threads import check_threads, physical_cores

SUPPORTED = SpecifierSet(">=0.3.20,<0.4")
_INSTALL = "pip install 'pocketvlm[llama]'"
_FIRST_CAPACITY = 1024  # tokens; the cache doubles when a sequence needs more, up to the context
_MAX_BATCH = 512
_CANDIDATE = np.dtype(
    [("id", np.int32), ("logit", np.float32), ("p", np.float32)]
)  # llama_token_data
_LOG_ERROR, _LOG_CONTINUED = 4, 5  # ggml_log_level

_log = logging.getLogger(__name__)
_complaints: list[str] = []  # llama.cpp's last error, for our messages
_callbacks: list[Any] = []  # what C calls must outlive every call

Array = npt.NDArray[Any]  # int32 (n,) ids or float32 (n, hidden) embeddings


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
    return lib


class LlamaCppDecoder:
    """`pocketvlm.decoders.Decoder` on llama.cpp: the weights are memory-mapped, the cache lies
    inside llama.cpp."""

    def __init__(
        self,
        model: int,
        *,
        name: str,
        context: int,
        hidden: int,
        vocab: int,
        cache_value_bytes: int,
        make_context: Callable[[int], int],
    ) -> None:
        """Take over an opened model; ``make_context(capacity)`` opens a cache for so many
        tokens."""
        self._lib = library()
        self._native: dict[str, int] = {"model": model}
        self._free = weakref.finalize(self, _free, self._lib, self._native)
        self._make_context = make_context
        self._capacity = 0
        self._hidden = hidden
        self._vocab = vocab
        self.name = name
        self.context = context
        self.cache_value_bytes = cache_value_bytes
        self.position = 0
        self.dropped = 0
        self.timings_ms: dict[str, float] = {}
        self._reserve(1)

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        precision: str | None = None,
        threads: int | None = None,
        prepack: bool = True,
    ) -> Self:
        """Open the artifact's GGUF file of a precision; None is the default. See `from_file`
        for the errors.

        ``prepack`` changes nothing: llama.cpp repacks or maps weights by their type.
        """
        spec = artifact.manifest.decoder
        precision = precision or spec.default_precisions["llama.cpp"]
        path = artifact.path(pick_precision(spec.gguf, precision, "GGUF decoder"))
        return cls._load(path, expected_dimensions(spec), threads, name=f"llama.cpp {precision}")

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        context: int,
        hidden: int,
        vocab: int,
        threads: int | None = None,
        f32_cache: bool = False,
        flash_attention: bool = False,
    ) -> Self:
        """Open a GGUF file.

        Args:
            path: the file.
            context: the most tokens of a sequence; the cache grows up to it as it is needed.
            hidden: width of the embeddings that the file must have.
            vocab: tokens that the file must have.
            threads: None takes the physical cores.
            f32_cache: keep keys and values in float32 instead of float16.
            flash_attention: use llama.cpp's fused attention, whose sums are ordered otherwise.

        Raises:
            PocketVLMError: llama-cpp-python is missing, or the file is damaged, unsafe to open, or
                another model's.
        """
        expected = {"hidden": hidden, "vocab": vocab, "context": context}
        return cls._load(
            path, expected, threads, f32_cache=f32_cache, flash_attention=flash_attention
        )

    @classmethod
    def _load(
        cls,
        path: Path,
        expected: dict[str, int],
        threads: int | None,
        *,
        name: str = "llama.cpp",
        f32_cache: bool = False,
        flash_attention: bool = False,
    ) -> Self:
        check_threads(threads)
        header = read_header(path)
        header.check(path.name, **expected)
        lib = library()
        settings = {
            "n_threads": threads or physical_cores(),
            "n_threads_batch": threads or physical_cores(),
            "flash_attn_type": int(flash_attention),
            "swa_full": True,  # else a sliding window's cache could not be cut back
        }
        if f32_cache:
            settings |= {"type_k": lib.GGML_TYPE_F32, "type_v": lib.GGML_TYPE_F32}
        options = _params(lib.llama_model_default_params(), n_gpu_layers=0)
        model = lib.llama_model_load_from_file(str(path).encode(), options)
        if not model:
            raise EngineError(
                f"{path.name} cannot be opened by llama.cpp{_complaint()}",
                advice="copy or export it again",
            )

        def make_context(capacity: int) -> int:
            size = {"n_ctx": capacity, "n_batch": min(capacity, _MAX_BATCH)}
            opened: int | None = lib.llama_init_from_model(
                model, _params(lib.llama_context_default_params(), **settings, **size)
            )
            if not opened:
                raise EngineError(
                    f"llama.cpp cannot hold {capacity} tokens{_complaint()}",
                    advice="shorten the prompt, or free memory",
                )
            return opened

        size = {"context": expected["context"], "hidden": header.hidden, "vocab": header.vocab}
        return cls(
            model,
            name=name,
            cache_value_bytes=4 if f32_cache else 2,
            make_context=make_context,
            **size,
        )

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """See `Decoder.prefill`; llama.cpp looks token embeddings up itself, so ``embed`` takes no
        time."""
        total = check_widths(segments, self._hidden)
        check_room(self.position, total, self.context)
        for segment in segments:
            if isinstance(segment, TokenSegment):
                self._check_ids(segment.ids)
        started = time.perf_counter()
        logits = self._append(_runs(segments), total)
        self.timings_ms = {"embed": 0.0, "prefill": (time.perf_counter() - started) * 1e3}
        return logits

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """See `Decoder.decode`."""
        check_room(self.position, 1, self.context)
        ids = np.array([token_id], dtype=np.int64)
        self._check_ids(ids)
        return self._append([ids.astype(np.int32)], 1)

    def keep(self, length: int) -> None:
        """See `Decoder.keep`."""
        if length < self.position:
            self._cut(length)

    def reset(self) -> None:
        """See `Decoder.reset`; a cache of the first size stays, empty."""
        self.position = 0
        if self._capacity > _FIRST_CAPACITY:
            self._lib.llama_free(self._native.pop("context"))
            self._capacity = 0
        elif "context" in self._native:
            self._lib.llama_memory_clear(self._memory(), True)

    def close(self) -> None:
        """See `Decoder.close`."""
        self._free()

    def sampler(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> LlamaCppSampler:
        """See `Decoder.sampler`: llama.cpp's sampler chain."""
        return LlamaCppSampler(temperature, top_p, seed)

    def _append(self, runs: Iterator[Array] | list[Array], total: int) -> npt.NDArray[np.float32]:
        """Feed runs of ids or embeddings in batches; should one fail, the sequence is what it
        was."""
        before = self.position
        self._reserve(before + total)
        try:
            for run in runs:
                for start in range(0, len(run), self._batch):
                    self._feed(run[start : start + self._batch])
            return self._logits()
        except BaseException:  # an interrupt may come between llama.cpp's step and ours
            self._cut(before)
            raise

    def _feed(self, values: Array) -> None:
        """One batch: int32 (n,) ids or float32 (n, hidden) embeddings, at the next n positions of
        the only sequence."""
        batch = (
            self._lib.llama_batch()
        )  # all zero: llama.cpp counts positions itself and gives the last logits
        batch.n_tokens = len(values)
        if values.dtype == np.int32:
            batch.token = values.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        else:
            batch.embd = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        if code := self._lib.llama_decode(self._native["context"], batch):
            raise EngineError(
                f"llama.cpp failed on {len(values)} tokens with code {code}{_complaint()}",
                advice="try a shorter prompt",
            )
        self.position += len(values)

    def _logits(self) -> npt.NDArray[np.float32]:
        """The last position's, float32 (vocab,), copied: llama.cpp overwrites its own."""
        pointer = self._lib.llama_get_logits_ith(self._native["context"], -1)
        if not pointer:
            raise EngineError(
                f"llama.cpp gave no logits{_complaint()}", advice="export the artifact again"
            )
        logits: npt.NDArray[np.float32] = np.ctypeslib.as_array(
            pointer, shape=(self._vocab,)
        ).copy()
        return logits

    def _cut(self, length: int) -> None:
        if self._lib.llama_memory_seq_rm(self._memory(), 0, length, -1):
            self.position = length
        else:  # some architectures' state cannot be cut
            self.reset()

    def _memory(self) -> Any:
        return self._lib.llama_get_memory(self._native["context"])

    def _check_ids(self, ids: npt.NDArray[np.int64]) -> None:
        if len(ids) and not 0 <= ids.min() <= ids.max() < self._vocab:
            raise EngineError(
                (
                    f"token ids {ids.min()}..{ids.max()} are not within the vocabulary of "
                    f"{self._vocab}"
                ),
                advice="the tokenizer belongs to another model, export it again",
            )

    def _reserve(self, needed: int) -> None:
        """Make room for so many tokens in all. The cache is written when it is made, so none is
        larger than of use."""
        if needed <= self._capacity:
            return
        capacity = min(self.context, max(_FIRST_CAPACITY, 1 << (needed - 1).bit_length()))
        fresh = self._make_context(capacity)
        if self.position:
            try:
                self._move_sequence(fresh)
            except BaseException:
                self._lib.llama_free(fresh)
                raise
        if "context" in self._native:
            self._lib.llama_free(self._native["context"])
        self._native["context"] = fresh
        self._capacity = capacity
        self._batch: int = self._lib.llama_n_batch(fresh)

    def _move_sequence(self, fresh: int) -> None:
        old = self._native["context"]
        size = self._lib.llama_state_seq_get_size(old, 0)
        state = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data(old, state, size, 0)
        if not written or not self._lib.llama_state_seq_set_data(fresh, state, written, 0):
            raise EngineError(
                f"llama.cpp cannot enlarge its cache{_complaint()}",
                advice="start a new conversation",
            )


class LlamaCppSampler:
    """Picks tokens with llama.cpp's sampler chain: temperature, nucleus, then a draw; or greedy at
    temperature 0.

    The parameters mean what they mean to `pocketvlm.decoders.sampling.Sampler`; the same seed draws
    other tokens than there.
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        check(temperature, top_p, seed)
        lib = self._lib = library()
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        weakref.finalize(self, lib.llama_sampler_free, self._chain)
        if temperature == 0:
            steps = [lib.llama_sampler_init_greedy()]
        else:
            # The default seed stands for fresh entropy, so no seed of ours may become it.
            number = lib.LLAMA_DEFAULT_SEED if seed is None else seed % lib.LLAMA_DEFAULT_SEED
            steps = [lib.llama_sampler_init_temp(temperature), lib.llama_sampler_init_dist(number)]
            if top_p < 1:
                steps.insert(1, lib.llama_sampler_init_top_p(top_p, 1))
        for step in steps:
            lib.llama_sampler_chain_add(self._chain, step)

    def pick(self, logits: npt.NDArray[np.float32]) -> int:
        """See `TokenSampler.pick`."""
        check_finite(logits)
        candidates = np.zeros(len(logits), dtype=_CANDIDATE)
        candidates["id"] = np.arange(len(logits))
        candidates["logit"] = logits - logits.max()  # a tiny temperature must not make inf - inf
        data = candidates.ctypes.data_as(ctypes.POINTER(self._lib.llama_token_data))
        array = self._lib.llama_token_data_array(data, len(candidates), -1, False)
        self._lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise EngineError(
                "llama.cpp's sampler picked no token", advice="use another temperature or top_p"
            )
        token = int(array.data[array.selected].id)
        self._lib.llama_sampler_accept(self._chain, token)
        return token


def _runs(segments: Sequence[Segment]) -> Iterator[Array]:
    """Neighbouring segments of one kind joined: int32 (n,) ids or float32 (n, hidden)
    embeddings."""
    for is_picture, group in itertools.groupby(
        segments, lambda segment: isinstance(segment, EmbeddingSegment)
    ):
        parts = [
            part.inputs_embeds if isinstance(part, EmbeddingSegment) else part.ids for part in group
        ]
        yield np.ascontiguousarray(
            np.concatenate(parts), dtype=np.float32 if is_picture else np.int32
        )


def _params(params: Any, **fields: Any) -> Any:
    """Default parameters with some set: ctypes would take a name that is no field without a
    word."""
    for name, value in fields.items():
        if name not in {field for field, *_ in params._fields_}:
            raise EngineError(
                f"llama-cpp-python has no setting {name}, another version is needed",
                advice=_INSTALL,
            )
        setattr(params, name, value)
    return params


def _free(lib: Any, native: dict[str, int]) -> None:
    if "context" in native:
        lib.llama_free(native.pop("context"))
    lib.llama_model_free(native.pop("model"))


def _on_log(level: int, text: bytes | None, _data: Any) -> None:
    """llama.cpp's log: for us at debug level, its last error kept for a message."""
    if not (line := (text or b"").decode("utf-8", "replace").strip()):
        return
    _log.debug("%s", line)
    if level == _LOG_ERROR:
        _complaints[:] = [line]


def _complaint() -> str:
    """What llama.cpp last complained about, in brackets, once."""
    return f" ({_complaints.pop()[:200]})" if _complaints else ""
