"""Knows how a GGUF decoder is opened through llama-cpp-python's low-level calls, and how its
sequences share it.

llama.cpp ends the whole process where it is given what it does not expect. So everything is checked
before it is asked: the file's header (`pocketvlm.decoders.gguf_header`), widths, token ids, batch
sizes, room in the context. Leave the environment variable OMP_WAIT_POLICY unset: ``passive`` halves
llama.cpp's speed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pocketvlm.artifact import Artifact, pick_precision
from pocketvlm.decoders.base import closed
from pocketvlm.decoders.gguf_header import GgufHeader, expected_dimensions, read_header
from pocketvlm.decoders.llama_library import LlamaContext, LlamaModel, check_process, library
from pocketvlm.decoders.llama_sequence import PLAIN, LlamaCppSequence, ModelFacts, Reading
from pocketvlm.decoders.positions import positions_named
from pocketvlm.errors import EngineError
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings, physical_cores

_FIRST_CAPACITY = 1024  # tokens; the cache doubles when a sequence needs more, up to the context


class LlamaCppDecoder:
    """`pocketvlm.decoders.base.Decoder` on llama.cpp: memory-mapped weights, which sequences share.

    Every sequence has a llama.cpp context of its own. One idle context of the first size is kept,
    so that a new sequence costs next to nothing, unless a sequence needs a larger one.
    """

    def __init__(
        self,
        path: Path,
        header: GgufHeader,
        *,
        context: int,
        name: str,
        settings: EngineSettings,
        f32_cache: bool,
        reading: Reading = PLAIN,
    ) -> None:
        """Load a file whose header has been read and checked; see `open` and `from_file`."""
        self._lib = library()
        self.name = name
        self.context = context
        self.cache_value_bytes = 4 if f32_cache else 2
        self.measures_runs = False  # activations have a scale for each block of a token
        convolutions = len(header.conv_layers)
        numbers = 2 * (header.layers - convolutions) * header.kv_heads * header.head_dim
        self._facts = ModelFacts(
            context,
            header.hidden,
            header.vocab,
            token_bytes=numbers * self.cache_value_bytes,
            positions=positions_named(header.positions),
            reading=reading,
            state_bytes=4 * convolutions * header.hidden * max(0, header.conv_width - 1),
        )
        threads = settings.threads or physical_cores()
        check_process(threads)
        self._options: dict[str, Any] = {
            "n_threads": threads,
            "n_threads_batch": threads,
            "flash_attn_type": 0,  # off: it orders sums otherwise
            "swa_full": True,  # else a sliding window's cache could not be cut back
        }
        if not self._facts.state_bytes:
            # A second sequence in the same cells, which copies a beginning of the first.
            self._options |= {"n_seq_max": 2, "kv_unified": True}
        if f32_cache:
            kind = self._lib.GGML_TYPE_F32
            self._options |= {"type_k": kind, "type_v": kind}
        # At most one. Lists take and give single items without a lock, from any thread.
        self._idle: list[LlamaContext] = []
        self._model: LlamaModel | None = LlamaModel(self._lib, path)
        if (self._model.planes > 1) != (self._facts.positions.axes > 1):
            raise EngineError(
                f"llama.cpp reads {self._model.planes} numbers of a position from {path.name}, "
                f"which is made for {header.positions} positions",
                advice="use another version of llama-cpp-python",
            )
        if self._model.input_width != header.hidden * (1 + len(reading.extras)):
            raise EngineError(
                f"llama.cpp reads embeddings of {self._model.input_width} numbers from {path.name},"
                f" which is made for {header.hidden} and {len(reading.extras)} further features",
                advice="use another version of llama-cpp-python",
            )
        self._idle.append(self.make_context(self._model, self.first_capacity))

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        precision: str | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> Self:
        """Open the artifact's GGUF file of a precision; None is the default. See `from_file`
        for the errors.

        Of ``settings`` only the threads are read: llama.cpp repacks or maps weights by their type,
        and computes on the CPU.
        """
        spec = artifact.manifest.decoder
        positions_named(spec.positions)  # refuses what this runtime does not have, before any work
        precision = precision or spec.default_precisions["llama.cpp"]
        path = artifact.path(pick_precision(spec.gguf, precision, "GGUF decoder"))
        return cls._load(
            path,
            expected_dimensions(spec),
            settings=settings,
            name=f"llama.cpp {precision}",
            reading=Reading.of(spec),
        )

    @classmethod
    def from_file(
        cls,
        path: Path,
        *,
        context: int,
        hidden: int,
        vocab: int,
        positions: str = "contiguous",
        reading: Reading = PLAIN,
        settings: EngineSettings = DEFAULT_SETTINGS,
        f32_cache: bool = False,
    ) -> Self:
        """Open a GGUF file.

        Args:
            path: the file.
            context: the most tokens of a sequence; its cache grows up to that as it is needed.
            hidden: width of the embeddings that the file must have.
            vocab: tokens that the file must have.
            positions: how its architecture must number tokens.
            reading: the further features that it must read, and how else it is read.
            settings: see `open`.
            f32_cache: keep keys and values in float32 instead of float16.

        Raises:
            PocketVLMError: llama-cpp-python is missing, or the file is damaged, unsafe to open, or
                another model's.
        """
        return cls._load(
            path,
            {
                "hidden": hidden,
                "vocab": vocab,
                "context": context,
                "positions": positions,
                "extras": len(reading.extras),
            },
            settings=settings,
            name="llama.cpp",
            f32_cache=f32_cache,
            reading=reading,
        )

    @classmethod
    def _load(
        cls,
        path: Path,
        expected: dict[str, Any],
        *,
        settings: EngineSettings,
        name: str,
        f32_cache: bool = False,
        reading: Reading = PLAIN,
    ) -> Self:
        header = read_header(path)
        header.check(path.name, **expected)
        return cls(
            path,
            header,
            context=expected["context"],
            name=name,
            settings=settings,
            f32_cache=f32_cache,
            reading=reading,
        )

    @property
    def first_capacity(self) -> int:
        """Tokens that the cache of a new sequence holds."""
        return min(self.context, _FIRST_CAPACITY)

    def sequence(self) -> LlamaCppSequence:
        """See `Decoder.sequence`."""
        if self._model is None:
            raise closed(f"the decoder {self.name}")
        return LlamaCppSequence(self, self._model, self._facts)

    def close(self) -> None:
        """See `Decoder.close`."""
        self._model = None
        self._idle.clear()

    def make_context(self, model: LlamaModel, capacity: int) -> LlamaContext:
        """An empty context; the idle one, where there is one of that size.

        A larger one takes the idle one's room: with a 7B model 1024 tokens are 512 MiB.
        """
        if capacity > self.first_capacity:
            self._idle.clear()
        else:
            with suppress(IndexError):
                return self._idle.pop()
        return LlamaContext(self._lib, model, capacity, self._options)

    def give_back(self, context: LlamaContext) -> None:
        """Take a context that its sequence needs no more: keep it as the idle one, or free it."""
        if not context.free.alive:
            return  # where a stream and its model are garbage together, this is freed first
        if self._model is None or self._idle or context.capacity != self.first_capacity:
            context.free()
            return
        self._lib.llama_memory_clear(self._lib.llama_get_memory(context.pointer), True)
        self._idle.append(context)
        if self._model is None:  # closed meanwhile, by another thread
            self._idle.clear()
