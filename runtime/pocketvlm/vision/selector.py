"""Knows how tokens of a picture are selected by the prompt: a question's words in, kept visual
tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pocketvlm.artifact import Artifact, Manifest, metadata, pick_precision
from pocketvlm.artifact.specs import (
    CANDIDATE,
    CANDIDATE_FEATURES,
    TEXT_EMBEDS,
    VISION_OUTPUTS,
)
from pocketvlm.ort.outputs import check_finite, check_rising, check_shapes, shapes_of
from pocketvlm.ort.sessions import open_session, ort_errors
from pocketvlm.ort.settings import DEFAULT_SETTINGS, EngineSettings
from pocketvlm.vision.features import VisionFeatures

_NAME = "the token selector"
_TABLE = "the embedding graph"


class TokenSelector:
    """The graph that takes a budget of tokens out of all candidates, by the words of a question.

    The words reach it as the decoder would read them: rows of the embedding table, which is opened
    here a second time, whichever engine decodes. Its file is mapped, so that only the rows that are
    looked up take memory. Each picture or tile is selected from by itself.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        table: ort.InferenceSession,
        manifest: Manifest,
        budget: int,
    ) -> None:
        self._session = session
        self._table = table
        self._extras = manifest.vision.extras
        self._hidden = manifest.decoder.hidden
        self._nested = manifest.pruning.nested
        self.budget = budget

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        budget: int,
        *,
        table: str | None = None,
        settings: EngineSettings = DEFAULT_SETTINGS,
    ) -> Self:
        """Open the selector of an exported ``budget`` and an embedding table.

        Args:
            artifact: one whose method reads the prompt.
            budget: a key of `Vision.selectors`.
            table: precision of the table; None is the one that the manifest states, so that what
                is selected does not depend on the decoder's precision.
            settings: as of `pocketvlm.ort.sessions.open_session`.

        Raises:
            PocketVLMError: a graph is missing, damaged or another artifact's, or there is no such
                table.
        """
        manifest = artifact.manifest
        tables = manifest.decoder.embed
        table = table or manifest.vision.selector_table
        embed = pick_precision(tables, table, "embedding graph")
        return cls(
            open_session(
                artifact,
                manifest.vision.selectors[budget],
                metadata.SELECTOR,
                budget=budget,
                settings=settings,
            ),
            open_session(
                artifact,
                embed,
                metadata.EMBED_TOKENS,
                settings=settings.for_precision(table),
            ),
            manifest,
            budget,
        )

    def select(self, candidates: VisionFeatures, question: npt.NDArray[np.int64]) -> VisionFeatures:
        """The kept tokens of each picture or tile, in raster order.

        Args:
            candidates: all their tokens, from `VisionEncoder.encode`.
            question: token ids int64 (T,) of the user's text, without template; without any, no
                token is more relevant than another.

        Raises:
            EngineError: ONNX Runtime failed, or what it gave is not what was asked for.
        """
        feed = {
            CANDIDATE_FEATURES: candidates.image_features,
            **{CANDIDATE + name: extra for name, extra in candidates.extras.items()},
            TEXT_EMBEDS: self._embeddings(question),
        }
        names = [*VISION_OUTPUTS, *self._extras]
        with ort_errors(f"{_NAME} failed"):
            values = self._session.run(names, feed)
        outputs = dict(zip(names, values, strict=True))
        batch, tokens = candidates.kept_indices.shape
        self._check(outputs, batch, tokens)
        features, indices, scores = (outputs.pop(name) for name in VISION_OUTPUTS)
        return VisionFeatures(
            features,
            indices,
            scores,
            nested=self._nested,
            extras=outputs,
            complete=indices.shape[1] < self.budget,
        )

    def _embeddings(self, question: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """float32 (1, T, hidden); a row of zeros where there is no word."""
        if len(question) == 0:
            return np.zeros((1, 1, self._hidden), dtype=np.float32)
        with ort_errors(f"{_TABLE} failed"):
            rows: npt.NDArray[np.float32] = self._table.run(None, {"input_ids": question[None]})[0]
        expected = (1, len(question), self._hidden)
        check_shapes(_TABLE, {"inputs_embeds": rows.shape}, {"inputs_embeds": expected})
        check_finite(_TABLE, "inputs_embeds", rows)
        return rows

    def _check(self, outputs: Mapping[str, npt.NDArray[Any]], batch: int, tokens: int) -> None:
        features, indices, scores = VISION_OUTPUTS
        kept = min(self.budget, tokens)
        wide = (batch, kept, self._hidden)
        expected = {features: wide, indices: (batch, kept), scores: (batch, kept)}
        check_shapes(_NAME, shapes_of(outputs), expected | dict.fromkeys(self._extras, wide))
        check_rising(_NAME, indices, outputs[indices], tokens)
        for name in (features, scores, *self._extras):
            check_finite(_NAME, name, outputs[name])
