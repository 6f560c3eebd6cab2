"""Knows how it is measured what a decoder or a vision graph loses that is not the exact one.

Both sides read the same tokens, whatever they would have answered themselves, so that every
position can be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketvlm.artifact import Manifest
from pocketvlm.decoders.base import (
    Decoder,
    DecoderSequence,
    EmbeddingSegment,
    Segment,
    TokenSegment,
)
from pocketvlm.decoders.sampler import Sampler
from pocketvlm.decoders.sampling import Sampling, checkpoint_sampling
from pocketvlm.decoders.staged import StagedSequence
from pocketvlm.errors import EngineError
from pocketvlm.layouts import TokenGrid
from pocketvlm.text.prompts import Prompter
from pocketvlm_export.precisions import VisionBounds
from pocketvlm_export.verification.bounds import agreement, cosine, divergence
from pocketvlm_export.verification.decoder_reference import DecoderReference, PictureReference
from pocketvlm_export.verification.kept import KeptRow, largest
from pocketvlm_export.verification.masked_reader import Dropping, gate_scores
from pocketvlm_export.verification.vision_reference import Floats, Ints

_SEQUENCES, _LENGTH = 4, 32


def gate_sequences(vocab: int, context: int) -> list[Ints]:
    """Return sequences of token ids, int64 (tokens,), the same at every call."""
    shape = (_SEQUENCES, min(_LENGTH, context))
    return list(np.random.default_rng(20241202).integers(0, vocab, size=shape))


@dataclass(frozen=True)
class Prompt:
    """The gate's prompt as the runtime writes it.

    Attributes:
        prompter: of the artifact.
        ids: slots expanded.
        manifest: of the artifact, by which answers are picked.
        grid: rows and columns of the picture's tokens, where its layout gives the decoder one grid.
        kept: their numbers, where it does.
    """

    prompter: Prompter
    ids: Ints
    manifest: Manifest
    grid: TokenGrid | None = None
    kept: Ints | None = None

    def filled(self, features: Floats, extras: Mapping[str, Floats]) -> list[Segment]:
        """Return it with features (slots, hidden) in its slots, and further ones by name."""
        picture = EmbeddingSegment(
            features,
            grid=self.grid,
            kept=self.kept,
            extras=extras,
            visual_scores=gate_scores(self.manifest.decoder.stages, len(features)),
        )
        return self.prompter.segments(self.ids, [picture])

    def sampler(self, new_tokens: int) -> Sampler:
        """Return what picks a greedy answer to it of so many tokens, as on a device."""
        own = checkpoint_sampling(self.manifest.generation)
        asked = Sampling(max_new_tokens=new_tokens).over(own)
        return Sampler(asked, self.ids, self.manifest.decoder.eos_token_ids)


def measure_logits(
    decoder: Decoder,
    prompt: Prompt,
    reference: DecoderReference,
    picture: PictureReference,
    sequences: Sequence[Ints],
) -> tuple[dict[str, Any], Floats]:
    """Return how a decoder's logits compare with transformers', and the scores that each token of
    the answer would be picked by.

    Args:
        decoder: what is measured.
        prompt: what it reads.
        reference: of that prompt about a picture, and of ``sequences``.
        picture: with the features that transformers made: nothing but the decoder differs.
        sequences: see `gate_sequences`.
    """
    sequence = decoder.sequence()
    filled = prompt.filled(picture.features, picture.extras)
    answer = _read(sequence, filled, reference.token_ids[:-1])
    kept = sequence.kept_prompt if isinstance(sequence, StagedSequence) else ()
    others = [_read(sequence, [TokenSegment(row[:1])], row[1:].tolist()) for row in sequences]
    sequence.close()
    ours, theirs = (
        np.concatenate([answer, *others]),
        np.concatenate([reference.logits, *reference.sequence_logits]),
    )
    lost = divergence(theirs, ours)
    scores = scored(prompt, answer, reference.token_ids)
    figures: dict[str, Any] = {
        "max_abs": largest(ours - theirs),
        "max_reference": float(np.max([1.0, largest(theirs)])),
        "cosine": cosine(ours, theirs),
        "greedy_tokens": len(reference.token_ids),
        "greedy_equal": agreement([int(row.argmax()) for row in scores], reference.token_ids),
        "prompt_equal": np.array_equal(prompt.ids, reference.prompt_ids),
        "positions": len(ours),
        "argmax_agreement": float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
        "kl_mean": float(lost.mean()),
        "kl_max": float(lost.max()),
    }
    return {**figures, **judge_dropped(kept, reference)}, scores


def scored(prompt: Prompt, logits: Floats, token_ids: Sequence[int]) -> Floats:
    """Return what each token of an answer would be picked by where the ones before it are those of
    ``token_ids``: (steps, vocab), of logits (steps, vocab)."""
    sampler, rows = prompt.sampler(len(token_ids)), []
    for row, token in zip(logits, token_ids, strict=True):
        rows.append(scores_of(sampler, row))
        sampler.follow(token)
    return np.stack(rows)


def scores_of(sampler: Sampler, logits: Floats) -> Floats:
    """Return what a sampler compares, (vocab,); broken logits as they are, which no bound lets
    pass."""
    try:
        return sampler.scores(logits)
    except EngineError:
        return logits


def judge_dropped(kept: Sequence[Ints], reference: DecoderReference) -> dict[str, Any]:
    """Return how the tokens that a decoder ``kept`` of its prompt at each of its stages compare
    with those of its reference: the worst of all stages, and each if there are several. A decoder
    that drops none gives nothing."""
    if not kept or not reference.dropping:
        return {}
    stages = [
        _judge_stage(ours, theirs) for ours, theirs in zip(kept, reference.dropping, strict=True)
    ]
    return {
        "kept_equal": all(stage["kept_equal"] for stage in stages),
        "kept_overlap": min(stage["kept_overlap"] for stage in stages),
        "cut_distance": max(stage["cut_distance"] for stage in stages),
        "min_gap": min(stage["min_gap"] for stage in stages),
        **({"stages": stages} if len(stages) > 1 else {}),
    }


def _judge_stage(kept: Ints, theirs: Dropping) -> dict[str, Any]:
    ours = np.flatnonzero(np.isin(theirs.visual, kept))
    as_many = len(kept) == len(theirs.kept) and len(ours) == theirs.keep
    shared = np.intersect1d(ours, theirs.ranking.kept(theirs.keep))
    return {
        "kept_equal": np.array_equal(kept, theirs.kept),
        "kept_overlap": len(shared) / theirs.keep if theirs.keep else 1.0,
        "cut_distance": theirs.ranking.distance(ours, np.zeros(0, np.float32))
        if as_many
        else float("inf"),
        "min_gap": theirs.ranking.gap(theirs.keep) if theirs.keep else 1.0,
    }


def judge_kept(rows: Sequence[KeptRow], bounds: VisionBounds) -> dict[str, Any]:
    """Return what a vision graph keeps of the features and of the kept patches; ``passed`` says
    whether that is within ``bounds``."""
    least = float(np.min([cosine(row.ours, row.theirs) if row.overlap else 0.0 for row in rows]))
    kept = all(
        row.ascending and (row.overlap >= bounds.overlap or row.cut_distance <= bounds.near)
        for row in rows
    )
    return {
        "cosine": least,
        "kept_overlap": min(row.overlap for row in rows),
        "kept_overlap_mean": float(np.mean([row.overlap for row in rows])),
        "cut_distance": float(np.max([row.cut_distance for row in rows])),
        "passed": kept and least >= bounds.cosine,
    }


def _read(
    sequence: DecoderSequence, segments: Sequence[Segment], following: Sequence[int]
) -> Floats:
    """Logits after ``segments`` and after each of the ``following`` tokens: (1 + following,
    vocab)."""
    sequence.reset()
    return np.stack([sequence.prefill(segments), *map(sequence.decode, following)])
