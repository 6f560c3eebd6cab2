"""Knows the ONNX decoder: the embedding graph, the merged graph for prefill and decode, and the
cache between runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import Artifact, metadata, pick_precision
from pocketvlm.artifact.manifest import DecoderSpec
from pocketvlm.decoders import EmbeddingSegment, Segment, check_room, check_widths
from pocketvlm.decoders.sampling import Sampler
from pocketvlm.ort.sessions import open_session, ort_errors, wants_prepacking
from pocketvlm.ort.signatures import cache_names


class OnnxDecoder:
    """`pocketvlm.decoders.Decoder` on ONNX Runtime.

    The cache stays inside ONNX Runtime: each run's ``present`` outputs are the next run's
    ``past_key_values`` inputs as OrtValues, float32 (1, kv_heads, position, head_dim). They become
    numpy arrays only where `keep` cuts them. All precisions read and write the same cache, so one
    may read prompts and another go on from there.

    Attributes:
        kind: of the decoder graphs, one of `metadata.GRAPH_KINDS`.
    """

    kind: ClassVar[str] = metadata.DECODER

    def __init__(
        self,
        spec: DecoderSpec,
        embed: ort.InferenceSession,
        decoder: ort.InferenceSession,
        name: str = "onnx",
        reader: ort.InferenceSession | None = None,
    ) -> None:
        """Put opened graphs together; ``reader`` takes the place of ``decoder`` for several tokens
        at once."""
        names = cache_names(spec.layers)
        self._past = [f"past_key_values.{name}" for name in names]
        self._present = [f"present.{name}" for name in names]
        self._outputs = ["logits", *self._present]
        self._spec = spec
        self._embed = embed
        self._decoder = decoder
        self._reader = reader or decoder
        self._cache: list[ort.OrtValue] = []
        self.name = name
        self.context = spec.context
        self.cache_value_bytes = 4
        self.position = 0
        self.timings_ms: dict[str, float] = {}

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        precision: str | None = None,
        threads: int | None = None,
        prepack: bool = True,
        table: str | None = None,
    ) -> Self:
        """Open the graphs.

        Args:
            artifact: an opened artifact.
            precision: as named in the manifest; None is the artifact's default. ``A+B`` reads
                prompts in A and answers in B, with B's table: eight bits read faster, four bits
                write faster, at the memory of both.
            threads: see `open_decoder`, as for ``prepack``.
            table: the embedding's precision; None is the one that goes with the decoder's.

        Raises:
            PocketVLMError: the artifact has no such precision.
        """
        spec = artifact.manifest.decoder
        precision = precision or spec.default_precisions["onnx"]
        reading, _, writing = precision.rpartition("+")
        decoder = pick_precision(spec.graphs, writing, "decoder")
        reader = pick_precision(spec.graphs, reading, "decoder") if reading else decoder
        embed = pick_precision(spec.embed, table or spec.tables[writing], "embedding graph")

        def opened(name: str, of: str) -> ort.InferenceSession:
            packed = wants_prepacking(of, prepack)
            return open_session(artifact, name, cls.kind, threads=threads, prepack=packed)

        return cls(
            spec,
            open_session(artifact, embed, metadata.EMBED_TOKENS, threads=threads),
            opened(decoder, writing),
            name=f"onnx {precision}",
            reader=None if reader == decoder else opened(reader, reading),
        )

    @property
    def dropped(self) -> int:
        """See `Decoder`: what the last layer holds less than the first."""
        return self.position - int(self._cache[-1].shape()[2]) if self._cache else 0

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """See `Decoder.prefill`: one run over all segments."""
        check_room(self.position, check_widths(segments, self._spec.hidden), self.context)
        started = time.perf_counter()
        inputs_embeds = np.concatenate(
            [self._embeddings(segment) for segment in segments]
        )  # (n, hidden)
        embedded = time.perf_counter()
        logits = self._run(inputs_embeds, segments)
        done = time.perf_counter()
        self.timings_ms = {"embed": (embedded - started) * 1e3, "prefill": (done - embedded) * 1e3}
        return logits

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """See `Decoder.decode`."""
        check_room(self.position, 1, self.context)
        return self._run(self._look_up(np.array([token_id], dtype=np.int64)))

    def keep(self, length: int) -> None:
        """See `Decoder.keep`: the kept part of the cache is copied once."""
        if length == 0:
            self.reset()
        elif length < self.position:
            kept = [np.ascontiguousarray(value.numpy()[:, :, :length]) for value in self._cache]
            self._cache = [ort.OrtValue.ortvalue_from_numpy(array) for array in kept]
            self.position = length

    def reset(self) -> None:
        """See `Decoder.reset`."""
        self._cache = []
        self.position = 0

    def close(self) -> None:
        """See `Decoder.close`."""
        self.reset()
        del self._embed, self._decoder, self._reader

    def sampler(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> Sampler:
        """See `Decoder.sampler`."""
        return Sampler(temperature, top_p, seed)

    def _embeddings(self, segment: Segment) -> npt.NDArray[np.float32]:
        if isinstance(segment, EmbeddingSegment):
            return segment.inputs_embeds
        return self._look_up(segment.ids)

    def _look_up(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Token embeddings, float32 (n, hidden)."""
        with ort_errors("the embedding graph failed"):
            inputs_embeds: npt.NDArray[np.float32] = self._embed.run(
                None, {"input_ids": ids[None]}
            )[0][0]
        return inputs_embeds

    def _run(
        self, inputs_embeds: npt.NDArray[np.float32], segments: Sequence[Segment] = ()
    ) -> npt.NDArray[np.float32]:
        """Append (n, hidden) embeddings, of ``segments`` or of a token of text; the cache and the
        position move only when the run succeeds."""
        n = len(inputs_embeds)
        feed = self._feed(inputs_embeds, segments)
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
        values |= zip(self._past, self._cache or self._empty_cache(), strict=True)
        graph = self._decoder if n == 1 else self._reader
        with ort_errors("the decoder graph failed"):
            found = graph.run_with_ort_values(self._outputs, values)
        outputs = dict(zip(self._outputs, found, strict=True))
        self._took(outputs, n)
        last: npt.NDArray[np.float32] = outputs["logits"].numpy().reshape(-1, self._spec.vocab)[-1]
        return last

    def _feed(
        self, inputs_embeds: npt.NDArray[np.float32], segments: Sequence[Segment]
    ) -> dict[str, npt.NDArray[Any]]:
        """What the graph reads besides its cache; ``segments`` are none for a single token."""
        n = len(inputs_embeds)
        return {
            "inputs_embeds": inputs_embeds[None],
            "attention_mask": np.ones((1, self.position + n), dtype=np.int64),
            "position_ids": np.arange(self.position, self.position + n, dtype=np.int64)[None],
        }

    def _took(self, outputs: Mapping[str, ort.OrtValue], tokens: int) -> None:
        """Keep what a run over so many tokens gave."""
        self._cache = [outputs[name] for name in self._present]
        self.position += tokens

    def _empty_cache(self) -> list[ort.OrtValue]:
        shape = (1, self._spec.kv_heads, 0, self._spec.head_dim)
        empty = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))
        return [empty] * len(self._past)
