"""Knows the ONNX decoder whose graphs drop visual tokens between layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import metadata
from pocketvlm.decoders.attention import picture_ids
from pocketvlm.decoders.base import EmbeddingSegment, Segment
from pocketvlm.decoders.onnx import Graphs, OnnxDecoder, OnnxSequence
from pocketvlm.decoders.track import Track
from pocketvlm.errors import RequestError
from pocketvlm.ort.outputs import check_rising, check_shapes
from pocketvlm.ort.signatures import kept_names

_NAME: Final = "the decoder graph"


class StagedDecoder(OnnxDecoder):
    """As `OnnxDecoder`; its sequences are `StagedSequence`."""

    kind: ClassVar[str] = metadata.STAGED_DECODER
    # The question decides which tokens are kept, so it is read with the pictures.
    divides: ClassVar[bool] = False

    def sequence(self) -> StagedSequence:
        """See `Decoder.sequence`."""
        return StagedSequence(self._opened())


class StagedSequence(OnnxSequence):
    """As `OnnxSequence`, with caches of several lengths: from each stage on layers hold fewer
    visual tokens.

    Which ones is decided during prefill, by what the whole prompt is: the question. So a cache that
    has lost tokens serves that prompt and what follows it, and no other. ``keep`` then keeps
    nothing from the first picture on, and a conversation prefills its pictures again with every
    question. It answers each as if it were asked alone.

    Attributes:
        kept_prompt: of each stage the positions of those tokens of the last prefill that went on,
            int64 (n,), ascending.
    """

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(graphs)
        self._kept = kept_names(len(self._spec.stages))
        self._outputs = [*self._outputs, *self._kept]
        # Where the first picture in the cache begins, or before it; None without a picture.
        self._first_picture: int | None = None
        self.kept_prompt: tuple[npt.NDArray[np.int64], ...] = ()

    def keep(self, length: int) -> None:
        """See `DecoderSequence.keep` and the class."""
        super().keep(length)
        if self._first_picture is not None and self.length <= self._first_picture:
            self._first_picture = None  # of the next prompt it may begin elsewhere

    def _within(self, length: int) -> Track:
        """See the class."""
        if any(self.dropped) and self._first_picture is not None:
            length = min(length, self._first_picture)
        return super()._within(length)

    def reset(self) -> None:
        """See `DecoderSequence.reset`."""
        super().reset()
        self._first_picture = None

    def _feed(
        self,
        inputs_embeds: npt.NDArray[np.float32],
        segments: Sequence[Segment],
        position_ids: npt.NDArray[np.int64],
    ) -> dict[str, npt.NDArray[Any]]:
        numbers = picture_ids(segments)
        feed = super()._feed(inputs_embeds, segments, position_ids)
        del feed["attention_mask"]
        feed["picture_ids"] = numbers[None]
        if self._spec.reads_scores:
            feed["visual_scores"] = visual_scores(segments)[None]
        if self._first_picture is None and numbers.any():
            self._first_picture = self.length + int(np.argmax(numbers > 0))
        return feed

    def _cache_lengths(self, outputs: Mapping[str, ort.OrtValue], n: int) -> list[int]:
        lengths, going = [self.length + n] * self._spec.segments[0].stop, n
        after_each = zip(self._spec.segments[1:], self._kept, self.dropped, strict=True)
        for layers, name, dropped in after_each:
            kept = outputs[name].numpy()
            going = min(going, max(1, kept.size))  # as many as it likes, but for none
            check_shapes(_NAME, {name: kept.shape}, {name: (1, going)})
            check_rising(_NAME, name, kept, n)
            lengths += [self.length - dropped + going] * len(layers)
        return lengths

    def _store(self, outputs: Mapping[str, ort.OrtValue], track: Track) -> None:
        before = self.length
        super()._store(outputs, track)
        if self.length - before > 1:
            self.kept_prompt = tuple(before + outputs[name].numpy()[0] for name in self._kept)


def visual_scores(segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
    """The input ``visual_scores`` of one run, float32 (n,): what each token of a picture comes
    with, 0 for text.

    Raises:
        RequestError: a picture comes without scores, with another number of them than it has
            tokens, or with some that are not numbers.
    """
    return np.concatenate([_scores(segment) for segment in segments])


def _scores(segment: Segment) -> npt.NDArray[np.float32]:
    if not isinstance(segment, EmbeddingSegment):
        return np.zeros(len(segment), dtype=np.float32)
    scores = segment.visual_scores
    if scores is None or scores.shape != (len(segment),) or not np.isfinite(scores).all():
        given = "no scores" if scores is None else f"scores of shape {scores.shape}"
        if scores is not None and scores.shape == (len(segment),):
            given = "scores that are not finite"
        raise RequestError(
            f"the decoder ranks visual tokens by scores that it is given, and a picture of "
            f"{len(segment)} tokens comes with {given}",
            expected="a finite score for each token",
            advice="hand them in as visual_scores of its segment",
            setting="visual_scores",
        )
    return np.asarray(scores, dtype=np.float32)
