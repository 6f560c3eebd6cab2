"""Knows which models the child process holds: one for each vision graph and precision that is asked
for, the latest few."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pocketvlm.answering import without_guide
from pocketvlm.artifact import Artifact, is_nested, pick_graph, pick_precision
from pocketvlm.decoders import choose_decoder
from pocketvlm.ort.settings import EngineSettings
from pocketvlm.vlm import VLM


class Choice(NamedTuple):
    """Which of an artifact's graphs answer: the vision graph's own budget, and two precisions."""

    graph: int
    vision_precision: str
    decoder_precision: str


@dataclass
class _Loaded:
    """A model, how many answers use it, and when the last of them began."""

    vlm: VLM
    users: int = 0
    used: float = field(default_factory=time.monotonic)


class Models:
    """The models of one artifact, opened when a request asks for them.

    Args:
        directory: of the artifact.
        options: arguments of `VLM.load`; ``budget`` and the precisions among them are those of
            requests that name none.
        most: models that are held at once. Beyond that the one unused for longest goes, when nobody
            uses it.

    Attributes:
        budget: visual tokens per tile where a request names none.

    Raises:
        PocketVLMError: as `VLM.load`; the default model is opened at once.
    """

    def __init__(self, directory: str, options: Mapping[str, Any], most: int = 2) -> None:
        self._directory = directory
        self._options = dict(options)
        self._most = most
        self._artifact = Artifact.open(directory)
        if self._artifact.manifest.decoder.reads_scores:
            raise without_guide()
        self._changed = threading.Condition()
        self._opening = threading.Lock()
        self._loaded: dict[Choice, _Loaded] = {}
        self._makes_room = False
        pruning = self._artifact.manifest.pruning
        budget = self._options.pop("budget", None)
        self.budget: int = pruning.default_budget if budget is None else budget
        self._vision_precision = (
            self._options.pop("vision_precision", None)
            or self._artifact.manifest.vision.default_precision
        )
        # What memory allows now may be another precision later: chosen once.
        self._engine, chosen = choose_decoder(
            self._artifact,
            engine=self._options.get("decoder"),
            precision=self._options.pop("decoder_precision", None),
            settings=self._options.get("settings") or EngineSettings(),
        )
        self._decoder_precision = chosen.precision
        with self.using():
            pass

    @contextmanager
    def using(
        self,
        budget: int | None = None,
        vision_precision: str | None = None,
        decoder_precision: str | None = None,
    ) -> Iterator[VLM]:
        """The model for a request, kept until the block ends; raises `PocketVLMError` for what the
        artifact does not have."""
        choice = self._choose(budget, vision_precision, decoder_precision)
        model = self._take(choice)
        try:
            yield model.vlm
        finally:
            with self._changed:
                model.users -= 1
                self._changed.notify_all()

    def facts(self) -> dict[str, Any]:
        """What the server says of the artifact and its default model, as JSON has it."""
        manifest = self._artifact.manifest
        with self.using() as vlm:
            return {
                "artifact_id": manifest.artifact_id,
                "source": manifest.source.model,
                "decoder": vlm.decoder,
                "context": vlm.parts.decoder.context,
                "layout": vlm.parts.viewer.layout.name,
                "budget": self.budget,
                "budgets": sorted(manifest.vision.graphs),
                "smaller_budgets": is_nested(manifest),
                "tokens_before": manifest.pruning.tokens_before,
                "vision_precision": self._vision_precision,
                "vision_precisions": sorted({*manifest.vision.graphs[self._graph(None)]}),
                "decoder_precision": self._decoder_precision,
                "decoder_precisions": sorted({*manifest.decoder.by_engine[self._engine]}),
            }

    def _graph(self, budget: int | None) -> int:
        return pick_graph(self._artifact.manifest, self.budget if budget is None else budget)

    def _choose(self, budget: int | None, vision: str | None, decoder: str | None) -> Choice:
        """Checked now: nothing is let go of for a model that cannot be opened."""
        manifest, graph = self._artifact.manifest, self._graph(budget)
        if vision is not None:
            graphs = manifest.vision.graphs[graph]
            what = f"vision graph at budget {graph}"
            pick_precision(graphs, vision, what, setting="vision_precision")
        if decoder is not None:
            for half in decoder.split("+"):
                pick_precision(manifest.decoder.by_engine[self._engine], half, "decoder")
        return Choice(graph, vision or self._vision_precision, decoder or self._decoder_precision)

    def _take(self, choice: Choice) -> _Loaded:
        # Who waits for room waits for answers that began before, and for no others.
        if not self._makes_room and (model := self._use(choice)):
            return model
        with self._opening:
            if model := self._use(choice):
                return model
            self._makes_room = True
            try:
                self._make_room()
            finally:
                self._makes_room = False
            model = _Loaded(self._open(choice), users=1)
            with self._changed:
                self._loaded[choice] = model
            return model

    def _use(self, choice: Choice) -> _Loaded | None:
        with self._changed:
            model = self._loaded.get(choice)
            if model is not None:
                model.users += 1
                model.used = time.monotonic()
            return model

    def _make_room(self) -> None:
        with self._changed:
            while len(self._loaded) >= self._most:
                idle = {choice: each for choice, each in self._loaded.items() if not each.users}
                if idle:
                    oldest = min(idle, key=lambda choice: idle[choice].used)
                    self._loaded.pop(oldest).vlm.close()
                else:
                    self._changed.wait()

    def _open(self, choice: Choice) -> VLM:
        return VLM.load(
            self._directory,
            budget=choice.graph,
            vision_precision=choice.vision_precision,
            decoder_precision=choice.decoder_precision,
            **self._options,
        )
