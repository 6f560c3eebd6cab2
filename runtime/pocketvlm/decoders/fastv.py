"""Knows the ONNX decoder whose graphs drop visual tokens between two layers (FastV, arXiv
2403.06764)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import metadata
from pocketvlm.decoders.attention import picture_ids
from pocketvlm.decoders.base import Segment
from pocketvlm.decoders.onnx import Graphs, OnnxDecoder, OnnxSequence
from pocketvlm.decoders.track import Track
from pocketvlm.ort.outputs import check_rising, check_shapes

_KEPT: Final = "kept_tokens"
_NAME: Final = "the decoder graph"


class FastVDecoder(OnnxDecoder):
    """As `OnnxDecoder`; its sequences are `FastVSequence`."""

    kind: ClassVar[str] = metadata.FASTV_DECODER

    def sequence(self) -> FastVSequence:
        """See `Decoder.sequence`."""
        return FastVSequence(self._opened())


class FastVSequence(OnnxSequence):
    """As `OnnxSequence`, with caches of two lengths: layers from FastV's on hold fewer visual
    tokens.

    Which ones is decided during prefill, by the prompt's last token: the question. So a cache that
    has lost tokens answers that prompt and what follows it, but is no beginning of another: `keep`
    then keeps nothing from the first picture on, and a conversation prefills its pictures again
    with every question. It answers each as if it were asked alone.

    Attributes:
        kept_prompt: positions of those tokens that all layers hold of the last prefill, int64 (n,),
            ascending.
    """

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(graphs)
        self._outputs = [*self._outputs, _KEPT]
        # Where the first picture in the cache begins, or before it; None without a picture.
        self._first_picture: int | None = None
        self.kept_prompt = np.zeros(0, dtype=np.int64)

    def keep(self, length: int) -> None:
        """See `DecoderSequence.keep` and the class."""
        if self.dropped and self._first_picture is not None:
            length = min(length, self._first_picture)
        super().keep(length)

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
        if self._first_picture is None and numbers.any():
            self._first_picture = self.length + int(np.argmax(numbers > 0))
        feed = super()._feed(inputs_embeds, segments, position_ids)
        del feed["attention_mask"]
        return feed | {"picture_ids": numbers[None]}

    def _cache_lengths(self, outputs: Mapping[str, ort.OrtValue], n: int) -> list[int]:
        kept = outputs[_KEPT].numpy()
        count = min(n, max(1, kept.size))  # as many as it likes, but for none
        check_shapes(_NAME, {_KEPT: kept.shape}, {_KEPT: (1, count)})
        check_rising(_NAME, _KEPT, kept, n)
        fastv = self._spec.fastv
        assert fastv is not None  # the manifest of such an artifact has it
        late = self.length - self.dropped + kept.shape[1]
        after = self._spec.layers - fastv.layer
        return [self.length + n] * fastv.layer + [late] * after

    def _store(self, outputs: Mapping[str, ort.OrtValue], track: Track) -> None:
        before = self.length
        super()._store(outputs, track)
        if self.length - before > 1:
            self.kept_prompt = before + outputs[_KEPT].numpy()[0]
