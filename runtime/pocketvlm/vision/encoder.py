"""Knows the vision graph: pixels in, kept visual tokens out, and how a smaller budget is served
from a larger one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import (
    Artifact,
    Manifest,
    is_nested,
    metadata,
    pick_graph,
    pick_precision,
)
from pocketvlm.artifact.specs import VISION_OUTPUTS
from pocketvlm.errors import RequestError
from pocketvlm.layouts import Medium, budget_beside, media_read
from pocketvlm.limits import whole
from pocketvlm.ort.outputs import check_finite, check_rising, check_shapes, shapes_of
from pocketvlm.ort.sessions import open_session, ort_errors
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.vision.features import VisionFeatures

_NAME = "the vision graph"


def open_beside(
    artifact: Artifact,
    *,
    budget: int | None = None,
    precision: str | None = None,
    settings: EngineSettings = DEFAULT_SETTINGS,
) -> dict[Medium, VisionEncoder]:
    """The vision graphs of the further media that an artifact reads, by medium; arguments and
    errors as of `VisionEncoder.open`.

    ``budget`` is of the artifact's first medium, see `pocketvlm.layouts.budget_beside`.
    """
    encoders: dict[Medium, VisionEncoder] = {}
    own = artifact.manifest.pruning.tokens_before
    for medium in media_read(artifact.manifest)[1:]:
        part = artifact.reading(medium)
        other = part.manifest.pruning.tokens_before
        within = None if budget is None else budget_beside(budget, own, other)
        encoders[medium] = VisionEncoder.open(
            part, budget=within, precision=precision, settings=settings
        )
    return encoders


class VisionEncoder:
    """The vision graph of one budget and precision, an opened session of the manifest's
    artifact."""

    def __init__(
        self, session: ort.InferenceSession, manifest: Manifest, budget: int, precision: str
    ) -> None:
        self._session = session
        self.budget = budget
        self.precision = precision
        self.nested = is_nested(manifest)
        self._extras = manifest.vision.extras
        self._hidden = manifest.decoder.hidden
        self._most_tokens = manifest.pruning.tokens_before
        self._dynamic = manifest.vision.image_size is None

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        budget: int | None = None,
        precision: str | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> Self:
        """Open the graph that serves ``budget``: the one exported at it, else the next larger one.

        Args:
            artifact: an opened artifact.
            budget: visual tokens per tile; None is the artifact's default.
            precision: as named in the manifest; None is the artifact's default.
            settings: threads, providers and whether a float32 graph is prepacked.

        Raises:
            PocketVLMError: no graph can serve the budget, or none has the precision.
        """
        manifest = artifact.manifest
        k = pick_graph(manifest, budget)
        graphs = manifest.vision.graphs[k]
        precision = precision or manifest.vision.default_precision
        name = pick_precision(
            graphs, precision, f"vision graph at budget {k}", setting="vision_precision"
        )
        session = open_session(
            artifact,
            name,
            metadata.VISION_ENCODER,
            budget=k,
            settings=settings.for_precision(precision),
        )
        return cls(session, manifest, k, precision)

    @property
    def provider(self) -> str:
        """The execution provider that comes first; two of them round differently."""
        provider: str = self._session.get_providers()[0]
        return provider

    def check_budget(self, budget: int) -> int:
        """Return ``budget`` if this graph serves it; raises `PocketVLMError` with what it
        serves."""
        budget = whole(budget, "budget")
        if budget == self.budget or (self.nested and 1 <= budget < self.budget):
            return budget
        served = f"1..{self.budget}" if self.nested else f"{self.budget} only"
        raise RequestError(
            f"budget {budget} is not served by the loaded graph ({served})",
            advice="load with that budget",
            setting="budget",
        )

    def encode(
        self, pixel_values: npt.NDArray[np.float32], tokens: int | None = None
    ) -> VisionFeatures:
        """Run the graph on ``pixel_values`` float32 (batch, 3, height, width), normalised as
        preprocessing does.

        Where resolution is dynamic, pictures with fewer tokens than the graph's budget keep all.

        Args:
            pixel_values: see above.
            tokens: of each picture or tile before pruning, where the caller knows them; the most
                that the artifact allows if not given.

        Raises:
            EngineError: ONNX Runtime failed, or the outputs are not those of such pictures: other
                shapes, numbers of tokens that there are not, values that are not finite.
        """
        names = [*VISION_OUTPUTS, *self._extras]
        with ort_errors(f"{_NAME} failed"):
            values = self._session.run(names, {"pixel_values": pixel_values})
        outputs = dict(zip(names, values, strict=True))
        self._check(outputs, len(pixel_values), tokens)
        features, indices, scores = (outputs.pop(name) for name in VISION_OUTPUTS)
        return VisionFeatures(
            features,
            indices,
            scores,
            nested=self.nested,
            extras=outputs,
            complete=indices.shape[1] < self.budget,
        )

    def _check(
        self, outputs: Mapping[str, npt.NDArray[Any]], batch: int, tokens: int | None
    ) -> None:
        features, indices, scores = VISION_OUTPUTS
        if not self._dynamic:
            kept = self.budget
        elif tokens is not None:
            kept = min(self.budget, tokens)
        else:  # whatever it kept, as long as all outputs agree
            kept = min(self.budget, max((1, *outputs[indices].shape[1:2])))
        wide = (batch, kept, self._hidden)
        expected = {features: wide, indices: (batch, kept), scores: (batch, kept)}
        check_shapes(_NAME, shapes_of(outputs), expected | dict.fromkeys(self._extras, wide))
        check_rising(_NAME, indices, outputs[indices], tokens or self._most_tokens)
        for name in (features, scores, *self._extras):
            check_finite(_NAME, name, outputs[name])
