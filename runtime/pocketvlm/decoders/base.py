"""Knows what a decoder and its sequences are, whichever engine runs them, and what they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import ArtifactError, EngineError, RequestError

if TYPE_CHECKING:
    from pocketvlm.layouts import TokenGrid


@dataclass(frozen=True)
class TokenSegment:
    """A stretch of text: token ids int64 (n,)."""

    ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class EmbeddingSegment:
    """A picture's kept tokens, or some of them: inputs_embeds float32 (n, hidden).

    Segments with the same ``key`` hold the same embeddings; one without a key equals no other. One
    that ``continues`` is of the same picture as the last before it, with text between them.

    Attributes:
        grid: rows and columns of the tokens that the picture had before pruning, where its layout
            gives the decoder one grid of them; else None. Positions that know of rows and columns
            need it.
        kept: int64 (n,), the numbers of these tokens in raster order of that grid; None where
            ``grid`` is.
        extras: further features of each token by the name of the vision graph's output, float32
            (n, hidden) each.
        visual_scores: float32 (n,), what a stage of the decoder ranks these tokens by, where it is
            one that is given scores (`DecoderSpec.reads_scores`); else they are not read.
    """

    inputs_embeds: npt.NDArray[np.float32]
    key: str | None = None
    continues: bool = False
    grid: TokenGrid | None = None
    kept: npt.NDArray[np.int64] | None = None
    extras: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    visual_scores: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.inputs_embeds)


Segment = TokenSegment | EmbeddingSegment


class DecoderSequence(Protocol):
    """One sequence of tokens and its KV cache, from `Decoder.sequence`.

    Sequences of one decoder know nothing of each other and may be computed at the same time. A
    single one belongs to one thread at a time.

    Attributes:
        length: tokens that take room in the cache.
        next_position: the position of the next token, see `pocketvlm.decoders.positions`. It is
            ``length`` if positions are contiguous. With M-RoPE it may be smaller, as a picture of
            20 x 20 tokens takes 20 positions, or larger, if few of them were kept.
        dropped: of the tokens, visual ones that layers from each stage of the decoder on do not
            hold, by stage; empty where an engine has no stages.
        cache_bytes: bytes of memory that the cache takes now.
        timings_ms: ``embed`` and ``prefill`` of the last `prefill`, in milliseconds.
    """

    timings_ms: dict[str, float]

    @property
    def length(self) -> int:
        """See the class."""

    @property
    def next_position(self) -> int:
        """See the class."""

    @property
    def dropped(self) -> tuple[int, ...]:
        """See the class."""

    @property
    def cache_bytes(self) -> int:
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
        """Forget all but the first ``length`` tokens. ``self.length`` is then the number that is
        left. It is smaller than ``length`` inside a picture that cannot be divided, and 0 if all
        tokens of a prompt attend to each other."""

    def reach(self, length: int) -> int:
        """How many tokens `keep` of ``length`` would leave, and `fork` would take."""

    def fork(self, length: int) -> DecoderSequence:
        """A further sequence that begins with what `keep` of ``length`` would leave of this one.

        This one stays as it is. The tokens are copied or shared, none is computed.
        """

    def reset(self) -> None:
        """Forget all tokens and free the cache; the sequence can be used again."""

    def close(self) -> None:
        """Free the cache for good; a second time does nothing. Only close may be called then."""


class Decoder(Protocol):
    """A language model's weights, which any number of sequences and threads share.

    Attributes:
        name: the engine and the precision, as in ``"onnx fp32"``.
        context: the most tokens that a sequence may hold.
        cache_value_bytes: bytes of one number in a cache.
        measures_runs: whether logits depend on how a prompt is divided into runs, by more than
            rounding, and it may be divided.
    """

    name: str
    context: int
    cache_value_bytes: int

    @property
    def measures_runs(self) -> bool:
        """See the class."""

    def sequence(self) -> DecoderSequence:
        """A new sequence, empty; raises `PocketVLMError` once the decoder is closed."""

    def close(self) -> None:
        """Open no more sequences, and free the weights with the last that is left.

        At once, where none is. A second time does nothing.
        """


def closed(name: str) -> EngineError:
    """The refusal of a decoder, or of a sequence, that has been closed."""
    return EngineError(f"{name} is closed", advice="load the model again")


def check_room(length: int, added: int, context: int) -> None:
    """Refuse a sequence that would outgrow the context, before any work is done on it."""
    if length + added > context:
        raise RequestError(
            f"{length + added} tokens are more than the model's context of {context}",
            advice="shorten the prompt, lower max_new_tokens or use a smaller budget",
            setting="context",
        )


def check_widths(segments: Sequence[Segment], hidden: int, extras: Sequence[str] = ()) -> int:
    """How many tokens the segments have.

    Refuses none at all, features of another width than the model reads, and pictures without the
    further features that it reads, ``extras``.
    """
    for segment in segments:
        if not isinstance(segment, EmbeddingSegment):
            continue
        if (width := segment.inputs_embeds.shape[-1]) != hidden:
            raise ArtifactError(
                f"image features are {width} wide, the decoder reads {hidden}",
                advice="the vision graph belongs to another model, export it again",
            )
        for name in extras:
            shape = segment.extras[name].shape if name in segment.extras else None
            if shape != segment.inputs_embeds.shape:
                raise ArtifactError(
                    f"a picture of {len(segment)} tokens comes "
                    + (f"with {name} of shape {shape}" if shape else f"without {name}"),
                    expected=f"{name} beside its features, which the decoder reads too",
                    advice="the vision graph belongs to another model, export it again",
                )
    total = sum(len(segment) for segment in segments)
    if total == 0:
        raise RequestError("nothing to prefill", advice="the prompt has no tokens")
    return total
