"""Knows how long settings take to the first token: what comes before the decoder, and the prefill,
each in turns with the unpruned one. Every result is written down at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from frontier.models import Models
from frontier.settings import Setting
from pocketvlm import VLM, Artifact, EngineSettings, Sampling
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import Decoder, EmbeddingSegment, Segment, TokenSegment
from pocketvlm.files import replace_file
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_measure.machine import Machine
from pocketvlm_measure.profiler.questions import TEXT_TOKENS, made_up_prompt, noise_picture
from pocketvlm_measure.spread import Spread
from pocketvlm_measure.turns import measure_in_turns

_BEFORE = 4  # text tokens before the picture
_UNPRUNED, _THIS = "unpruned", "this"


@dataclass(frozen=True)
class Times:
    """One part of the time to first token, in turns with the unpruned one.

    Attributes:
        ratio: the median over turns of its milliseconds by the unpruned one's in the same turn.
        ms, unpruned_ms: medians.
    """

    ratio: float
    ms: float
    unpruned_ms: float


class Stopwatch:
    """Measures what ``file`` has no times of yet, and keeps them there."""

    def __init__(
        self, file: Path, models: Models, unpruned: Setting, repeat: int, threads: int
    ) -> None:
        self._file, self._models, self._repeat = file, models, repeat
        self._unpruned = unpruned
        self._settings = EngineSettings(threads=threads)
        data: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self._times = {name: Times(**times) for name, times in data.get("times", {}).items()}
        self.machine: str = data.get("machine", "")
        self.threads = threads

    def before_decoder(self, setting: Setting, budget: int) -> Times:
        """All before the prefill, the picture's preparation and the question's included, of the
        setting's vision graph at ``budget``."""

        def measure() -> dict[str, list[float]]:
            return self._in_turns(self._whole_asker, self._asker(setting, budget))

        return self._measured(f"{setting.name} {budget}", measure)

    def prefill(self, setting: Setting, visual: int) -> Times:
        """The prefill of ``visual`` tokens and `TEXT_TOKENS` of text by the setting's decoder."""

        def measure() -> dict[str, list[float]]:
            return self._in_turns(self._whole_reader, self._reader(setting, visual))

        decoder = setting.name if setting.decoder else "decoder"
        return self._measured(f"prefill {decoder} {visual}", measure)

    def _in_turns(
        self, whole: Callable[[], float], this: Callable[[], float]
    ) -> dict[str, list[float]]:
        return measure_in_turns({_UNPRUNED: whole, _THIS: this}, self._repeat)

    def _measured(self, name: str, measure: Callable[[], dict[str, list[float]]]) -> Times:
        if name not in self._times:
            samples = measure()
            pairs = zip(samples[_THIS], samples[_UNPRUNED], strict=True)
            self._times[name] = Times(
                Spread([this / whole for this, whole in pairs]).median,
                Spread(samples[_THIS]).median,
                Spread(samples[_UNPRUNED]).median,
            )
            self.machine = self._described
            written = {"machine": self.machine, "threads": self.threads, "times": self._by_name()}
            replace_file(self._file, f"{json.dumps(written, indent=1)}\n".encode())
        return self._times[name]

    def _by_name(self) -> dict[str, dict[str, float]]:
        return {name: asdict(times) for name, times in self._times.items()}

    @cached_property
    def _described(self) -> str:
        return Machine.look().describe()

    @cached_property
    def _whole_asker(self) -> Callable[[], float]:
        return self._asker(self._unpruned, self._models.dimensions.tokens)

    @cached_property
    def _whole_reader(self) -> Callable[[], float]:
        return self._reader(self._unpruned, self._models.dimensions.tokens)

    @cached_property
    def _whole_decoder(self) -> tuple[Artifact, Decoder]:
        return self._open(self._unpruned)

    def _open(self, setting: Setting) -> tuple[Artifact, Decoder]:
        artifact = Artifact.open(self._models.export_decoder(setting), allow_rejected=True)
        return artifact, open_decoder(artifact, settings=self._settings)

    def _asker(self, setting: Setting, budget: int) -> Callable[[], float]:
        """Answers with one token; returns the milliseconds up to the prefill."""
        artifact = Artifact.open(self._models.export_tower(setting, budget), allow_rejected=True)
        encoder = VisionEncoder.open(artifact, settings=self._settings)
        vlm = VLM(artifact, encoder, open_decoder(artifact, settings=self._settings))
        picture, prompt = noise_picture(artifact), made_up_prompt(artifact)

        def ask() -> float:
            taken = vlm.generate(prompt, [picture], sampling=Sampling(max_new_tokens=1))
            return taken.timings_ms["ttft"] - taken.timings_ms["prefill"]

        return ask

    def _reader(self, setting: Setting, visual: int) -> Callable[[], float]:
        """Reads a prompt; returns the milliseconds of the prefill."""
        artifact, decoder = self._open(setting) if setting.decoder else self._whole_decoder
        rng = np.random.default_rng(0)
        shape = (visual, artifact.manifest.decoder.hidden)
        picture = EmbeddingSegment(0.1 * rng.standard_normal(shape, dtype=np.float32))
        texts = (np.full(n, 3, dtype=np.int64) for n in (_BEFORE, TEXT_TOKENS - _BEFORE))
        before, after = map(TokenSegment, texts)
        segments: Sequence[Segment] = [before, picture, after]

        def read() -> float:
            sequence = decoder.sequence()
            sequence.prefill(segments)
            taken = sequence.timings_ms["prefill"]
            sequence.close()
            return taken

        return read
