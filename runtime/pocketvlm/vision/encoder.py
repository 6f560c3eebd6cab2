"""Knows the vision graph: pixels in, kept visual tokens out, and how a smaller budget is served
from a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import Artifact, is_nested, metadata, pick_graph, pick_precision
from pocketvlm.artifact.manifest import VISION_OUTPUTS
from pocketvlm.errors import RequestError
from pocketvlm.limits import whole
from pocketvlm.ort.sessions import open_session, ort_errors
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.vision.features import VisionFeatures


class VisionEncoder:
    """The vision graph of one budget and precision."""

    def __init__(
        self,
        session: ort.InferenceSession,
        budget: int,
        precision: str,
        *,
        nested: bool,
        extras: Sequence[str] = (),
    ) -> None:
        self._session = session
        self.budget = budget
        self.precision = precision
        self.nested = nested
        self._extras = tuple(extras)

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
        return cls(session, k, precision, nested=is_nested(manifest), extras=manifest.vision.extras)

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

    def encode(self, pixel_values: npt.NDArray[np.float32]) -> VisionFeatures:
        """Run the graph on ``pixel_values`` float32 (batch, 3, height, width), normalised as
        preprocessing does.

        Where resolution is dynamic, pictures with fewer tokens than the graph's budget keep all.
        """
        with ort_errors("the vision graph failed"):
            features, indices, scores, *extras = self._session.run(
                [*VISION_OUTPUTS, *self._extras], {"pixel_values": pixel_values}
            )
        return VisionFeatures(
            features,
            indices,
            scores,
            nested=self.nested,
            extras=dict(zip(self._extras, extras, strict=True)),
            complete=indices.shape[1] < self.budget,
        )
