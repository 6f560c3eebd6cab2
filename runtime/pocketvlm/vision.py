"""Knows the vision graph: pixels in, kept visual tokens out, and how a smaller budget is served from a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import Artifact, Manifest, metadata
from pocketvlm.errors import PocketVLMError
from pocketvlm.sessions import open_session, ort_errors, wants_prepacking

_OUTPUTS = ["image_features", "kept_indices", "kept_scores"]


@dataclass(frozen=True)
class VisionFeatures:
    """What the vision graph says about a batch of pictures or tiles; tokens stand in raster order.

    Attributes:
        image_features: float32 (batch, k, hidden), ready for the decoder.
        kept_indices: int64 (batch, k), patch numbers in raster order of the whole picture.
        kept_scores: float32 (batch, k), the score by which each token was kept; higher is better.
        nested: whether the method allows `narrow`.
    """

    image_features: npt.NDArray[np.float32]
    kept_indices: npt.NDArray[np.int64]
    kept_scores: npt.NDArray[np.float32]
    nested: bool = True

    @property
    def budget(self) -> int:
        """k, the visual tokens of a picture."""
        return self.kept_indices.shape[1]

    def first(self, count: int) -> VisionFeatures:
        """Those of the first ``count`` pictures of the batch."""
        kept = self.kept_indices[:count], self.kept_scores[:count]
        return VisionFeatures(self.image_features[:count], *kept, nested=self.nested)

    def narrow(self, budget: int) -> VisionFeatures:
        """The same pictures at a smaller budget j: the j best scores, ties to the lower index, in raster order.

        Exact for nested methods, where the set kept at j is a subset of the set kept at k >= j and a kept token's
        feature does not depend on which others are kept. An int8 graph measures its activations over all the tokens
        that it keeps: there the features are those of a graph made for j within that precision, the kept set is equal.

        Raises:
            PocketVLMError: ``budget`` lies outside 1..k, or the method is not nested.
        """
        if budget == self.budget:
            return self
        if not 1 <= budget <= self.budget:
            raise PocketVLMError(f"budget {budget} is not within 1..{self.budget}, the tokens this graph keeps")
        if not self.nested:
            raise PocketVLMError(
                f"budget {budget} cannot be cut from {self.budget} tokens: this pruning method is not nested; "
                f"use {self.budget} or export with --budget {budget}"
            )
        # Tokens already stand in raster order, so a stable sort leaves the lower index first among equal scores.
        best = np.argsort(-self.kept_scores, axis=1, kind="stable")[:, :budget]
        rows = np.sort(best, axis=1)  # (batch, j)
        return VisionFeatures(
            image_features=np.take_along_axis(self.image_features, rows[:, :, None], axis=1),
            kept_indices=np.take_along_axis(self.kept_indices, rows, axis=1),
            kept_scores=np.take_along_axis(self.kept_scores, rows, axis=1),
        )


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
        threads: int | None = None,
        prepack: bool = True,
    ) -> Self:
        """Open the graph that serves ``budget``: the one exported at it, else the next larger one.

        Args:
            artifact: an opened artifact.
            budget: visual tokens a picture; None is the artifact's default.
            precision: as named in the manifest; None is the artifact's default, the first listed.
            threads: intra-op threads; None leaves ONNX Runtime's default.
            prepack: False opens a float32 graph at once and runs it slower, see `open_session`.

        Raises:
            PocketVLMError: no graph can serve the budget, or none has the precision.
        """
        manifest = artifact.manifest
        k = pick_graph(manifest, budget)
        graphs = manifest.vision.graphs[k]
        precision = next(iter(graphs)) if precision is None else precision
        name = pick_precision(graphs, precision, f"vision graph at budget {k}")
        session = open_session(
            artifact,
            name,
            metadata.VISION_ENCODER,
            budget=k,
            threads=threads,
            prepack=wants_prepacking(precision, prepack),
        )
        vision = manifest.vision
        return cls(
            session, k, precision, nested=is_nested(manifest), constants=vision.constants, image_size=vision.image_size
        )

    def check_budget(self, budget: int) -> int:
        """Return ``budget`` if this graph serves it; raises `PocketVLMError` with what it serves."""
        if budget == self.budget or (self.nested and 1 <= budget < self.budget):
            return budget
        served = f"1..{self.budget}" if self.nested else f"{self.budget} only"
        raise PocketVLMError(f"budget {budget} is not served by the loaded graph ({served}): load with that budget")

    @property
    def constants(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """The outputs that no picture changes, by name, (hidden,) each; known once something has been encoded.

        Where nothing has, all features having come from a cache, a blank tile is: ONNX Runtime 1.31 computes the whole
        graph whichever outputs are asked for, ``only_execute_path_to_fetches`` or not.
        """
        if any(value is None for value in self._constants.values()):
            self.encode(np.zeros((1, 3, *self._image_size), dtype=np.float32))
        return {name: value for name, value in self._constants.items() if value is not None}

    def encode(self, pixel_values: npt.NDArray[np.float32]) -> VisionFeatures:
        """Run the graph on ``pixel_values`` float32 (batch, 3, height, width), normalised as preprocessing does."""
        with ort_errors("the vision graph failed"):
            features, indices, scores, *constants = self._session.run(
                [*_OUTPUTS, *self._constants], {"pixel_values": pixel_values}
            )
        self._constants = dict(zip(self._constants, constants, strict=True))
        return VisionFeatures(features, indices, scores, nested=self.nested)


def is_nested(manifest: Manifest) -> bool:
    """Whether smaller budgets may be cut from a larger graph; never without a method, whose scores mean nothing."""
    return manifest.pruning.nested and manifest.pruning.method != "none"


def pick_graph(manifest: Manifest, budget: int | None) -> int:
    """The exported k that serves ``budget``: equal, or the smallest larger one where the method is nested."""
    exported = sorted(manifest.vision.graphs)
    wanted = manifest.pruning.default_budget if budget is None else budget
    if not 1 <= wanted <= manifest.pruning.tokens_before:
        raise PocketVLMError(f"budget {wanted} is not within 1..{manifest.pruning.tokens_before}, a picture's tokens")
    if wanted in exported:
        return wanted
    larger = [k for k in exported if k > wanted]
    if larger and is_nested(manifest):
        return larger[0]
    served = f"1..{exported[-1]}" if is_nested(manifest) else " or ".join(map(str, exported))
    raise PocketVLMError(
        f"budget {wanted} is not in this artifact, which serves {served} of {manifest.pruning.tokens_before} tokens: "
        f"choose one of these or export again with --budget {wanted}"
    )


def pick_precision(graphs: Mapping[str, str], precision: str | None, what: str) -> str:
    """The file name for a precision; None takes the first listed, which is the artifact's default."""
    if precision is None:
        return next(iter(graphs.values()))
    if precision not in graphs:
        raise PocketVLMError(f"the {what} has no precision {precision!r}: this artifact has {', '.join(graphs)}")
    return graphs[precision]
