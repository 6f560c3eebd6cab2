"""Knows the ONNX decoder: the embedding graph, the merged graph for prefill and decode, and the
cache between runs."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import Artifact, metadata, pick_precision
from pocketvlm.artifact.specs import CAUSAL, DecoderSpec
from pocketvlm.decoders.attention import seen_both_ways
from pocketvlm.decoders.base import (
    EmbeddingSegment,
    Segment,
    TokenSegment,
    check_room,
    check_widths,
    closed,
)
from pocketvlm.decoders.onnx_cache import OnnxCache
from pocketvlm.decoders.positions import positions_named
from pocketvlm.decoders.track import Track, joined_planes
from pocketvlm.ort.outputs import check_shapes
from pocketvlm.ort.sessions import open_session, ort_errors
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.ort.signatures import cache_tensors

_FLOAT32_BYTES = 4
_NAME = "the decoder graph"
# Precisions whose activations have one scale for all tokens of a run.
_MEASURED_EACH_RUN = frozenset({"int8"})


@dataclass(frozen=True)
class Graphs:
    """The opened graphs of one decoder; ONNX Runtime lets any number of threads run them at once.

    Attributes:
        spec: what the manifest says about them.
        embed: token ids to embeddings.
        prefill: for several tokens at once.
        decode: for one token; the same session as ``prefill`` where one precision does both.
    """

    spec: DecoderSpec
    embed: ort.InferenceSession
    prefill: ort.InferenceSession
    decode: ort.InferenceSession


class OnnxDecoder:
    """`pocketvlm.decoders.base.Decoder` on ONNX Runtime: the sessions that all sequences share.

    Attributes:
        kind: of the decoder graphs, one of `metadata.GRAPH_KINDS`.
        divides: whether a prompt may be read in several runs, where something is gained by it.
    """

    kind: ClassVar[str] = metadata.DECODER
    divides: ClassVar[bool] = True

    def __init__(self, graphs: Graphs, name: str = "onnx", *, measures_runs: bool = False) -> None:
        """``measures_runs``: see `Decoder`."""
        self._graphs: Graphs | None = graphs
        self.name = name
        self.measures_runs = measures_runs
        self.context = graphs.spec.context
        self.cache_value_bytes = _FLOAT32_BYTES

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        precision: str | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
        table: str | None = None,
    ) -> Self:
        """Open the graphs.

        Args:
            artifact: an opened artifact.
            precision: as named in the manifest; None is the artifact's default. ``A+B`` prefills in
                A and decodes in B, with B's table: eight bits prefill faster, four bits decode
                faster, at the memory of both.
            settings: threads, providers and whether float32 graphs are prepacked.
            table: the embedding's precision; None is the one that goes with the decoder's.

        Raises:
            PocketVLMError: the artifact has no such precision.
        """
        spec = artifact.manifest.decoder
        positions_named(spec.positions)  # refuses what this runtime does not have, before any work
        precision = precision or spec.default_precisions["onnx"]
        reading, _, writing = precision.rpartition("+")
        decode = pick_precision(spec.graphs, writing, "decoder")
        prefill = pick_precision(spec.graphs, reading, "decoder") if reading else decode
        table = table or spec.tables[writing]
        embed = pick_precision(spec.embed, table, "embedding graph")

        def opened(name: str, kind: str, of: str) -> ort.InferenceSession:
            return open_session(artifact, name, kind, settings=settings.for_precision(of))

        decode_session = opened(decode, cls.kind, writing)
        graphs = Graphs(
            spec,
            embed=opened(embed, metadata.EMBED_TOKENS, table),
            prefill=decode_session if prefill == decode else opened(prefill, cls.kind, reading),
            decode=decode_session,
        )
        measured = (reading or writing) in _MEASURED_EACH_RUN
        return cls(graphs, f"onnx {precision}", measures_runs=cls.divides and measured)

    def sequence(self) -> OnnxSequence:
        """See `Decoder.sequence`."""
        return OnnxSequence(self._opened())

    def close(self) -> None:
        """See `Decoder.close`."""
        self._graphs = None

    def _opened(self) -> Graphs:
        if self._graphs is None:
            raise closed(f"the decoder {self.name}")
        return self._graphs


class OnnxSequence:
    """`pocketvlm.decoders.base.DecoderSequence` on ONNX Runtime.

    The cache stays inside ONNX Runtime: each run's ``present`` outputs are the next run's ``past``
    inputs as OrtValues, float32 (1, kv_heads, length, head_dim). They become numpy arrays only
    where `keep` cuts them. All precisions read and write the same cache, so one may prefill and
    another continue from there.

    Where layers are convolutions `keep` goes back to where a prefill began or ended, or to the
    token before; from there to the end the prompt is computed again.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._tensors = cache_tensors(graphs.spec)
        self._cache = OnnxCache(self._tensors)
        self._outputs = ["logits", *self._cache.outputs]
        self._graphs: Graphs | None = graphs
        self._spec = graphs.spec
        spec = graphs.spec
        self._track = Track(positions_named(spec.positions), spec.attention, spec.first_position)
        self.timings_ms: dict[str, float] = {}

    @property
    def length(self) -> int:
        """See `DecoderSequence`."""
        return self._track.end.length

    @property
    def next_position(self) -> int:
        """See `DecoderSequence`."""
        return self._track.end.position

    @property
    def dropped(self) -> tuple[int, ...]:
        """See `DecoderSequence`: what each stage's layer holds less than the first."""
        return tuple(
            self.length - self._cache.length_of(stage.layer) for stage in self._spec.stages
        )

    @property
    def cache_bytes(self) -> int:
        """See `DecoderSequence`."""
        return self._cache.bytes

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.prefill`: one run over all segments."""
        tokens = check_widths(segments, self._spec.hidden, self._spec.extras)
        check_room(self.length, tokens, self._spec.context)
        started = time.perf_counter()
        inputs_embeds = np.concatenate(
            [self._embeddings(segment) for segment in segments]
        )  # (n, hidden)
        embedded = time.perf_counter()
        self._cache.mark()
        logits = self._run(inputs_embeds, segments)
        self._cache.mark()
        done = time.perf_counter()
        self.timings_ms = {"embed": (embedded - started) * 1e3, "prefill": (done - embedded) * 1e3}
        return logits

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.decode`."""
        check_room(self.length, 1, self._spec.context)
        token = TokenSegment(np.array([token_id], dtype=np.int64))
        return self._run(self._look_up(token.ids), [token])

    def keep(self, length: int) -> None:
        """See `DecoderSequence.keep`: the kept part of the cache is copied once."""
        track = self._within(length)
        self._cache.cut(track.end.length)
        self._track = track

    def reach(self, length: int) -> int:
        """See `DecoderSequence.reach`."""
        return self._within(length).end.length

    def fork(self, length: int) -> Self:
        """See `DecoderSequence.fork`: what is taken is copied once, all of it not even that."""
        other = copy.copy(self)
        other._cache = self._cache.fork()
        other.timings_ms = {}
        other.keep(length)
        return other

    def reset(self) -> None:
        """See `DecoderSequence.reset`."""
        self._cache.cut(0)
        self._track = self._track.cut(0)

    def close(self) -> None:
        """See `DecoderSequence.close`."""
        self.reset()
        self._graphs = None

    def _within(self, length: int) -> Track:
        """What can be kept of the first ``length`` tokens."""
        track = self._track.cut(length)
        while (within := self._cache.within(track.end.length)) < track.end.length:
            track = self._track.cut(within)
        return track

    def _opened(self) -> Graphs:
        if self._graphs is None:
            raise closed("this sequence")
        return self._graphs

    def _embeddings(self, segment: Segment) -> npt.NDArray[np.float32]:
        if isinstance(segment, EmbeddingSegment):
            return segment.inputs_embeds
        return self._look_up(segment.ids)

    def _look_up(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Token embeddings, float32 (n, hidden)."""
        with ort_errors("the embedding graph failed"):
            inputs_embeds: npt.NDArray[np.float32] = self._opened().embed.run(
                None, {"input_ids": ids[None]}
            )[0]
        check_shapes(
            "the embedding graph",
            {"inputs_embeds": inputs_embeds.shape},
            {"inputs_embeds": (1, len(ids), self._spec.hidden)},
        )
        return inputs_embeds[0]

    def _run(
        self, inputs_embeds: npt.NDArray[np.float32], segments: Sequence[Segment]
    ) -> npt.NDArray[np.float32]:
        """Append ``segments``, whose embeddings are (n, hidden).

        The cache and the track change only when the run succeeds.
        """
        n = len(inputs_embeds)
        numbers, track = self._track.extended(segments)
        position_ids = joined_planes(numbers, track.positions.axes)
        feed = self._feed(inputs_embeds, segments, position_ids)
        inputs = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
        inputs |= self._cache.inputs
        graph = self._opened().decode if n == 1 else self._opened().prefill
        with ort_errors(f"{_NAME} failed"):
            values = graph.run_with_ort_values(self._outputs, inputs)
        outputs = dict(zip(self._outputs, values, strict=True))
        self._check(outputs, n)
        self._store(outputs, track)
        logits: npt.NDArray[np.float32] = outputs["logits"].numpy()[0, 0]
        return logits

    def _feed(
        self,
        inputs_embeds: npt.NDArray[np.float32],
        segments: Sequence[Segment],
        position_ids: npt.NDArray[np.int64],
    ) -> dict[str, npt.NDArray[Any]]:
        """What the graph reads besides its cache."""
        feed: dict[str, npt.NDArray[Any]] = {
            "inputs_embeds": inputs_embeds[None],
            "attention_mask": np.ones((1, self.length + len(inputs_embeds)), dtype=np.int64),
            "position_ids": position_ids,
            **{
                name: _further_features(segments, name, self._spec.hidden)[None]
                for name in self._spec.extras
            },
        }
        if self._spec.attention != CAUSAL:
            feed["picture_ids"] = seen_both_ways(segments, self._spec.attention)[None]
        return feed

    def _check(self, outputs: Mapping[str, ort.OrtValue], n: int) -> None:
        """Refuse outputs of another shape than ``n`` further tokens give."""
        spec = self._spec
        shapes = {name: value.shape() for name, value in outputs.items()}
        expected: dict[str, tuple[int, ...]] = {"logits": (1, 1, spec.vocab)}
        lengths = self._cache_lengths(outputs, n)
        expected |= {tensor.present: tensor.of(lengths[tensor.layer]) for tensor in self._tensors}
        check_shapes(_NAME, shapes, expected)

    def _cache_lengths(self, outputs: Mapping[str, ort.OrtValue], n: int) -> list[int]:
        """Tokens that each layer's cache holds after ``n`` further ones."""
        return [self.length + n] * self._spec.layers

    def _store(self, outputs: Mapping[str, ort.OrtValue], track: Track) -> None:
        """Keep the cache that a run has extended, and the track that goes with it."""
        self._cache.store([outputs[name] for name in self._cache.outputs], track.end.length)
        self._track = track


def _further_features(
    segments: Sequence[Segment], name: str, hidden: int
) -> npt.NDArray[np.float32]:
    """What the segments have by the name of an extra, zeros for text: float32 (n, hidden)."""
    rows = [
        segment.extras[name]
        if isinstance(segment, EmbeddingSegment)
        else np.zeros((len(segment), hidden), dtype=np.float32)
        for segment in segments
    ]
    return np.concatenate(rows)
