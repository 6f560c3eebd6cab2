"""Knows a decoder that is opened with its first sequence. A process that answers once thus never
holds the vision graphs and the decoder together."""

from __future__ import annotations

import time
from collections.abc import Callable

from pocketvlm.artifact import Artifact, pick_precision
from pocketvlm.decoders import ENGINES, open_decoder
from pocketvlm.decoders.base import Decoder, DecoderSequence, closed
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings

_FLOAT32_BYTES = 4


class LateDecoder:
    """`pocketvlm.decoders.base.Decoder` that opens its graphs with its first sequence.

    Args:
        artifact: an opened artifact.
        engine: one that `suits`.
        precision: as named in the manifest; None is the artifact's default.
        settings: as `open_decoder` takes them.
        before: called once, before the graphs are opened.
        after: called once they are, with the milliseconds that it took.

    Raises:
        PocketVLMError: the artifact has no such precision; what else an engine refuses is refused
            when the first sequence begins.
    """

    def __init__(
        self,
        artifact: Artifact,
        engine: str,
        *,
        precision: str | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
        before: Callable[[], None],
        after: Callable[[float], None],
    ) -> None:
        spec = artifact.manifest.decoder
        name = precision or spec.default_precisions[engine]
        for each in name.split("+"):
            pick_precision(spec.by_engine[engine], each, "decoder")
        self.name = f"{engine} {name}"
        self.context = spec.context
        self.cache_value_bytes = _FLOAT32_BYTES
        self._open = lambda: open_decoder(
            artifact, engine=engine, precision=precision, settings=settings
        )
        self._before, self._after = before, after
        self._decoder: Decoder | None = None
        self._closed = False

    @classmethod
    def suits(cls, engine: str) -> bool:
        """Whether an engine gains by it: one that maps its weights does not."""
        return not ENGINES[engine].maps_weights

    @property
    def measures_runs(self) -> bool:
        """See `Decoder`; known once it is open, which it is with the first sequence."""
        return self._decoder is not None and self._decoder.measures_runs

    def sequence(self) -> DecoderSequence:
        """See `Decoder.sequence`; the first one opens the graphs."""
        if self._closed:
            raise closed(f"the decoder {self.name}")
        if self._decoder is None:
            self._before()
            started = time.perf_counter()
            self._decoder = self._open()
            self.name = self._decoder.name
            self._after((time.perf_counter() - started) * 1e3)
        return self._decoder.sequence()

    def close(self) -> None:
        """See `Decoder.close`."""
        self._closed = True
        if self._decoder is not None:
            self._decoder.close()
