"""Knows what a decoder is, whichever engine runs it, and which module holds each engine."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import Artifact
from pocketvlm.errors import RequestError

# One line for each engine: its name in the manifest, and "module:class" with an `open` as in
# `open_decoder`.
ENGINES = {
    "onnx": "pocketvlm.decoders.onnx:OnnxDecoder",
    "llama.cpp": "pocketvlm.decoders.llama_cpp:LlamaCppDecoder",
}
# What takes the place of the first where the graphs drop visual tokens on their way.
FASTV = "pocketvlm.decoders.fastv:FastVDecoder"


@dataclass(frozen=True)
class TokenSegment:
    """A stretch of text: token ids int64 (n,)."""

    ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class EmbeddingSegment:
    """A picture's kept tokens, or some of them: inputs_embeds float32 (n, hidden).

    Segments with the same ``key`` hold the same embeddings; without a key nothing is known of their
    content. One that ``continues`` is of the same picture as the last before it, with text between
    them.
    """

    inputs_embeds: npt.NDArray[np.float32]
    key: str | None = None
    continues: bool = False

    def __len__(self) -> int:
        return len(self.inputs_embeds)


Segment = TokenSegment | EmbeddingSegment


class TokenSampler(Protocol):
    """Picks the next token from logits."""

    def pick(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token id from float32 (vocab,) logits; raises `PocketVLMError` where they are
        not finite."""


class Decoder(Protocol):
    """A language model with its KV cache: one sequence at a time, positions 0, 1, 2, ... without
    gaps.

    Attributes:
        name: the engine and the precision, as in ``"onnx fp32"``.
        position: tokens in the cache so far; the next token's position.
        dropped: of these, visual tokens that only the first layers hold: none where an engine drops
            none.
        context: the most tokens the cache may hold.
        cache_value_bytes: bytes of one number in the cache.
        timings_ms: ``embed`` and ``prefill`` of the last `prefill`, in milliseconds.
    """

    name: str
    position: int
    context: int
    cache_value_bytes: int
    timings_ms: dict[str, float]

    @property
    def dropped(self) -> int:
        """See the class."""

    def prefill(self, segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """Append segments to the sequence and return the last position's logits, float32 (vocab,).

        Raises:
            PocketVLMError: the sequence would outgrow the context, a segment has another width than
                the model, or a token id lies outside the vocabulary. The sequence is then what it
                was.
        """

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """Append one token and return the logits of the next, float32 (vocab,)."""

    def keep(self, length: int) -> None:
        """Forget all but the first ``length`` tokens. `position` says how many are left: fewer, if
        need be."""

    def reset(self) -> None:
        """Forget the sequence and free its cache."""

    def close(self) -> None:
        """Free the model too; nothing else may be called afterwards."""

    def sampler(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> TokenSampler:
        """The engine's own sampler; raises `PocketVLMError` for a parameter out of range, see
        `sampling.check`."""


def open_decoder(
    artifact: Artifact,
    *,
    engine: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    prepack: bool = True,
) -> Decoder:
    """Open the artifact's decoder.

    Args:
        artifact: an opened artifact.
        engine: a name from the manifest's engines; None is the artifact's default.
        precision: as named in the manifest; None is the artifact's default.
        threads: None leaves the engine's default.
        prepack: see `pocketvlm.VLM.load`.

    Raises:
        PocketVLMError: an engine that the artifact or this runtime does not have.
    """
    present = artifact.manifest.decoder.engines
    wanted = engine or artifact.manifest.decoder.default_engine
    if wanted not in present:
        have = ", ".join(present)
        raise RequestError(
            f"decoder engine {wanted!r} is not in this artifact, which has {have}",
            advice="export it with that",
            setting="decoder",
        )
    if wanted not in ENGINES:
        have = ", ".join(ENGINES)
        raise RequestError(
            f"decoder engine {wanted!r} is unknown to this runtime, which has {have}",
            advice="update pocketvlm",
            setting="decoder",
        )
    decoder: Decoder = engine_class(artifact, wanted).open(
        artifact, precision=precision, threads=threads, prepack=prepack
    )
    return decoder


def engine_class(artifact: Artifact, engine: str) -> Any:
    """The class behind an engine of this artifact, a key of `ENGINES`."""
    fastv = engine == "onnx" and artifact.manifest.decoder.fastv is not None
    module, _, name = (FASTV if fastv else ENGINES[engine]).partition(":")
    return getattr(importlib.import_module(module), name)


def check_room(position: int, added: int, context: int) -> None:
    """Refuse a sequence that would outgrow the context, before any work is done on it."""
    if position + added > context:
        raise RequestError(
            f"{position + added} tokens are more than the model's context of {context}",
            advice="shorten the prompt, lower max_new_tokens or use a smaller budget",
            setting="context",
        )


def check_widths(segments: Sequence[Segment], hidden: int) -> int:
    """How many tokens the segments have; refuses none at all, and features of another width than
    the model reads."""
    for segment in segments:
        if (
            isinstance(segment, EmbeddingSegment)
            and (width := segment.inputs_embeds.shape[-1]) != hidden
        ):
            raise RequestError(
                f"image features are {width} wide, the decoder reads {hidden}",
                advice="the vision graph belongs to another model, export it again",
            )
    total = sum(len(segment) for segment in segments)
    if total == 0:
        raise RequestError("nothing to prefill", advice="the prompt has no tokens")
    return total
