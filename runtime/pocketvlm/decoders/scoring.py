"""Knows the ONNX decoder whose graphs also give their attention to each token. With it a small
model ranks visual tokens for a large one (SGL, arXiv 2412.03324)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import metadata
from pocketvlm.decoders.base import EmbeddingSegment, Segment
from pocketvlm.decoders.onnx import Graphs, OnnxDecoder, OnnxSequence
from pocketvlm.decoders.track import Track
from pocketvlm.ort.outputs import check_finite, check_shapes
from pocketvlm.ort.signatures import SCORED_ROWS, TOKEN_SCORES

_NAME = "the decoder graph"


class ScoringDecoder(OnnxDecoder):
    """As `OnnxDecoder`; its sequences are `ScoringSequence`."""

    kind: ClassVar[str] = metadata.SCORING_DECODER
    # What is paid to a picture is counted over one run behind it.
    divides: ClassVar[bool] = False

    def sequence(self) -> ScoringSequence:
        """See `Decoder.sequence`."""
        return ScoringSequence(self._opened())


class ScoringSequence(OnnxSequence):
    """As `OnnxSequence`; it adds up what attention pays to the visual tokens of a prompt.

    The rows that count are those of text: in a prefill those after its last picture, or all of them
    if the pictures are in the cache; and each token that is decoded after it. A prefill begins
    again.
    """

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(graphs)
        self._outputs = [*self._outputs, TOKEN_SCORES]
        self._is_visual = np.zeros(0, dtype=np.bool_)  # of every token, (length,)
        self._fed = self._is_visual  # of those of the run under way
        self._paid = np.zeros(0, dtype=np.float64)  # to every token, (length,)

    @property
    def visual_scores(self) -> npt.NDArray[np.float64]:
        """What has been paid to each visual token since the last prefill began, summed over rows,
        layers and heads: float64 (v,), in the order of the sequence."""
        return self._paid[self._is_visual]

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.prefill`."""
        self._is_visual = self._is_visual[: self.length]
        self._paid = np.zeros(self.length, dtype=np.float64)
        return super().prefill(segments)

    def _feed(
        self,
        inputs_embeds: npt.NDArray[np.float32],
        segments: Sequence[Segment],
        position_ids: npt.NDArray[np.int64],
    ) -> dict[str, npt.NDArray[Any]]:
        each = [
            np.full(len(segment), isinstance(segment, EmbeddingSegment)) for segment in segments
        ]
        self._fed = np.concatenate(each)
        feed = super()._feed(inputs_embeds, segments, position_ids)
        return feed | {SCORED_ROWS: self._rows()}

    def _rows(self) -> npt.NDArray[np.int64]:
        """Tokens of the run whose attention counts, int64 (R,); none where no picture is seen."""
        visual = np.flatnonzero(self._fed)
        if not visual.size and not self._is_visual.any():
            return np.zeros(0, dtype=np.int64)
        first = visual[-1] + 1 if visual.size else 0
        return np.arange(first, len(self._fed), dtype=np.int64)

    def _check(self, outputs: Mapping[str, ort.OrtValue], n: int) -> None:
        super()._check(outputs, n)
        scores = outputs[TOKEN_SCORES]
        check_shapes(_NAME, {TOKEN_SCORES: scores.shape()}, {TOKEN_SCORES: (1, self.length + n)})
        check_finite(_NAME, TOKEN_SCORES, scores.numpy())

    def _store(self, outputs: Mapping[str, ort.OrtValue], track: Track) -> None:
        super()._store(outputs, track)
        self._is_visual = np.concatenate([self._is_visual, self._fed])
        before = np.zeros(len(self._is_visual), dtype=np.float64)
        before[: len(self._paid)] = self._paid
        self._paid = before + outputs[TOKEN_SCORES].numpy()[0]
