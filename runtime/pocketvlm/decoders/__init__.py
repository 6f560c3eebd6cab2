"""Knows what a decoder is, whichever engine runs it, and which module holds each engine."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.errors import PocketVLMError

# One line for each engine: its name in the manifest, and "module:class" with an `open` as in `open_decoder`.
ENGINES = {
    "onnx": "pocketvlm.decoders.onnx:OnnxDecoder",
}


@dataclass(frozen=True)
class TokenSegment:
    """A stretch of text: token ids int64 (n,)."""

    ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class EmbeddingSegment:
    """A picture's kept tokens: inputs_embeds float32 (n, hidden)."""

    inputs_embeds: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.inputs_embeds)


Segment = TokenSegment | EmbeddingSegment


class Decoder(Protocol):
    """A language model with its KV cache: one sequence at a time, positions 0, 1, 2, ... without gaps.

    Attributes:
        position: tokens in the cache so far; the next token's position.
        context: the most tokens the cache may hold.
        timings_ms: ``embed`` and ``prefill`` of the last `prefill`, in milliseconds.
    """

    position: int
    context: int
    timings_ms: dict[str, float]

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """Append segments to the sequence and return the last position's logits, float32 (vocab,).

        Raises:
            PocketVLMError: the sequence would outgrow the context, or a segment has another width than the model.
        """

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """Append one token and return the logits of the next, float32 (vocab,)."""

    def reset(self) -> None:
        """Forget the sequence and free its cache."""


def open_decoder(
    artifact: Artifact, *, engine: str | None = None, precision: str | None = None, threads: int | None = None
) -> Decoder:
    """Open the artifact's decoder.

    Args:
        artifact: an opened artifact.
        engine: a name from the manifest's engines; None prefers ONNX Runtime.
        precision: as named in the manifest; None is the artifact's default.
        threads: None leaves the engine's default.

    Raises:
        PocketVLMError: an engine that the artifact or this runtime does not have.
    """
    present = artifact.manifest.decoder.engines
    wanted = engine or ("onnx" if "onnx" in present else present[0])
    if wanted not in present:
        have = ", ".join(present)
        raise PocketVLMError(
            f"decoder engine {wanted!r} is not in this artifact, which has {have}: export it with that"
        )
    if wanted not in ENGINES:
        have = ", ".join(ENGINES)
        raise PocketVLMError(
            f"decoder engine {wanted!r} is unknown to this runtime, which has {have}: update pocketvlm"
        )
    module, _, name = ENGINES[wanted].partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), name).open(
        artifact, precision=precision, threads=threads
    )
    return decoder


def check_room(position: int, added: int, context: int) -> None:
    """Refuse a sequence that would outgrow the context, before any work is done on it."""
    if position + added > context:
        raise PocketVLMError(
            f"{position + added} tokens are more than the model's context of {context}: "
            "shorten the prompt, lower max_new_tokens or use a smaller budget"
        )
