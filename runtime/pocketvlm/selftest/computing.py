"""Knows how the graphs of an artifact compute a self-test: what the vision graph keeps of its
picture, and the logits that a decoder reads from that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.base import Decoder, DecoderSequence, EmbeddingSegment, Segment
from pocketvlm.decoders.scoring import ScoringSequence
from pocketvlm.layouts import Layout, TileGrid, Tiles, open_layout
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.batches import arrange_features, encode_tiles
from pocketvlm.vision.constants import read_constants
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.features import VisionFeatures

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TestAnswer:
    """What a decoder reads of a prompt.

    Attributes:
        logits: float32 (steps, vocab), after the prompt and after each token but the last.
        token_ids: the answer's.
        attention: float32 (v,), what was paid to each visual token, of a decoder that says so.
    """

    __test__ = False  # pytest takes the name for a class of tests

    logits: Floats
    token_ids: list[int]
    attention: Floats | None = None


class TestPrompt:
    """A question about one picture, which is encoded and read without any cache.

    Args:
        artifact: of the medium that the picture is of.
        grid: how the picture is cut.
        prompt_ids: int64 (n,), one image token in the picture's place.
        question_ids: what the picture is selected by, where the method reads the prompt.
        visual_scores: float32 (v,), what the decoder ranks visual tokens by, where it is given
            scores; begun again where a picture has more tokens.
    """

    __test__ = False  # pytest takes the name for a class of tests

    def __init__(
        self,
        artifact: Artifact,
        grid: TileGrid,
        prompt_ids: Ints,
        question_ids: Ints | None = None,
        visual_scores: Floats | None = None,
    ) -> None:
        self.artifact = artifact
        self.layout: Layout[Any] = open_layout(artifact)
        self.grid = grid
        self._prompt_ids = prompt_ids
        self._question_ids = question_ids
        self.visual_scores = visual_scores
        self._prompter = Prompter.from_artifact(artifact)
        self._constants = read_constants(artifact)

    def see(self, encoder: VisionEncoder, tiles: Tiles) -> tuple[VisionFeatures, ...]:
        """What a vision graph keeps of the picture, of each of its batches; raises
        `EngineError`."""
        return encode_tiles(encoder, self.layout, tiles, self._question_ids)

    def input_ids(self, features: Sequence[VisionFeatures]) -> Ints:
        """The prompt with a slot for each token that was kept, int64 (n,)."""
        kept = features[0].kept_indices if len(features) == 1 else None
        most = max(each.budget for each in features)
        slots = self.layout.expand(self.grid, most, kept)
        return self._prompter.place(self._prompt_ids, [slots])

    def read(
        self,
        decoder: Decoder,
        features: Sequence[VisionFeatures],
        token_ids: Sequence[int] | None = None,
        *,
        steps: int = 1,
    ) -> TestAnswer:
        """What a decoder answers.

        Args:
            decoder: what reads.
            features: from `see`.
            token_ids: the answer; None takes the largest logits.
            steps: tokens of the answer, where none is given.

        Raises:
            PocketVLMError: an engine failed, or gave what is not a number.
        """
        answer: list[int] = [] if token_ids is None else list(token_ids)
        steps = steps if token_ids is None else len(answer)
        with closing(decoder.sequence()) as sequence:
            rows = [sequence.prefill(self._segments(features))]
            while True:
                if token_ids is None:
                    answer.append(int(rows[-1].argmax()))
                if len(rows) == steps:
                    return TestAnswer(np.stack(rows), answer, _paid(sequence))
                rows.append(sequence.decode(answer[len(rows) - 1]))

    def _segments(self, features: Sequence[VisionFeatures]) -> list[Segment]:
        layout, grid = self.layout, self.grid
        embeddings, extras = arrange_features(layout, grid, features, self._constants)
        scores = self.visual_scores
        picture = EmbeddingSegment(
            embeddings,
            grid=layout.token_grid(grid) if layout.one_grid else None,
            kept=features[0].kept_indices[0] if layout.one_grid else None,
            extras=extras,
            visual_scores=None if scores is None else np.resize(scores, len(embeddings)),
        )
        return self._prompter.segments(self.input_ids(features), [picture])


def _paid(sequence: DecoderSequence) -> Floats | None:
    if not isinstance(sequence, ScoringSequence):
        return None
    return sequence.visual_scores.astype(np.float32)
