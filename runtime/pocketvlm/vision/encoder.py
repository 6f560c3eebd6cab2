"""Knows the vision graph: pixels in, kept visual tokens out, and how a smaller budget is served
from a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import Artifact, is_nested, metadata, pick_graph, pick_precision
from pocketvlm.errors import RequestError
from pocketvlm.limits import check_int
from pocketvlm.ort.sessions import open_session, ort_errors
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.vision.features import VisionFeatures

_OUTPUTS = ["image_features", "kept_indices", "kept_scores"]


class VisionEncoder:
    """The vision graph of one budget and precision."""

    def __init__(
        self,
        session: ort.InferenceSession,
        budget: int,
        precision: str,
        *,
        nested: bool,
        constants: Sequence[str] = (),
        image_size: tuple[int, int] = (1, 1),
    ) -> None:
        self._session = session
        self.budget = budget
        self.precision = precision
        self.nested = nested
        self._constants: dict[str, npt.NDArray[np.float32] | None] = dict.fromkeys(constants)
        self._image_size = image_size

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
        vision = manifest.vision
        return cls(
            session,
            k,
            precision,
            nested=is_nested(manifest),
            constants=vision.constants,
            image_size=vision.image_size,
        )

    def check_budget(self, budget: int) -> int:
        """Return ``budget`` if this graph serves it; raises `PocketVLMError` with what it
        serves."""
        check_int(budget, "budget")
        if budget == self.budget or (self.nested and 1 <= budget < self.budget):
            return budget
        served = f"1..{self.budget}" if self.nested else f"{self.budget} only"
        raise RequestError(
            f"budget {budget} is not served by the loaded graph ({served})",
            advice="load with that budget",
            setting="budget",
        )

    @property
    def constants(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """The outputs that no picture changes, by name, (hidden,) each; known once something has
        been encoded.

        Where nothing has, all features having come from a cache, a blank tile is: ONNX Runtime 1.31
        computes the whole graph whichever outputs are asked for, ``only_execute_path_to_fetches``
        or not.
        """
        if any(value is None for value in self._constants.values()):
            self.encode(np.zeros((1, 3, *self._image_size), dtype=np.float32))
        return {name: value for name, value in self._constants.items() if value is not None}

    def encode(self, pixel_values: npt.NDArray[np.float32]) -> VisionFeatures:
        """Run the graph on ``pixel_values`` float32 (batch, 3, height, width), normalised as
        preprocessing does."""
        with ort_errors("the vision graph failed"):
            features, indices, scores, *constants = self._session.run(
                [*_OUTPUTS, *self._constants], {"pixel_values": pixel_values}
            )
        self._constants = dict(zip(self._constants, constants, strict=True))
        return VisionFeatures(features, indices, scores, nested=self.nested)
