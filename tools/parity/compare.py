"""Knows how an answer of this runtime is taken, and how it compares with Hugging Face's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.drawn import Message
from parity.theirs import Theirs
from pocketvlm import VLM, Sampling
from pocketvlm.decoders.witness import Witness
from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.verification.bounds import STEPS, within
from pocketvlm_export.verification.exact import TIE
from pocketvlm_export.verification.kept import compare_kept

SAMPLING = Sampling(max_new_tokens=STEPS)


@dataclass
class FirstLogits(Witness):
    """What the first token was picked from, (vocab,)."""

    first: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def picked(self, logits: npt.NDArray[np.float32], token_id: int) -> None:
        """See `Witness.picked`."""
        if not self.first:
            self.first.append(logits.copy())
        super().picked(logits, token_id)


@dataclass(frozen=True)
class Ours:
    """This runtime's answer to one question.

    Attributes:
        token_ids: greedy, until the end of sequence or `STEPS`.
        logits: before the first of them, (vocab,).
        features: of each picture, what the vision graph gave of its tiles.
    """

    token_ids: list[int]
    logits: npt.NDArray[np.float32]
    features: list[tuple[VisionFeatures, ...]]


def ask(vlm: VLM, messages: Sequence[Message]) -> Ours:
    """The answer of a loaded artifact to a conversation's last question."""
    witness = FirstLogits()
    request = replace(vlm.prepare(messages=messages, sampling=SAMPLING), witness=witness)
    answer = vlm.parts.begin(request).answer
    features = [picture.features or () for picture in request.pictures]
    return Ours(answer.token_ids, witness.first[0], features)


def compare(ours: Ours, theirs: Theirs) -> dict[str, Any]:
    """How an answer compares with Hugging Face's, as a row of the figures.

    ``at`` is the first token that differs, None where none does; ``margin`` by how much Hugging
    Face prefers its own there, of its largest logit; ``tie`` whether that is within the gate's
    tolerance.
    """
    pairs = zip(ours.token_ids, theirs.token_ids, strict=False)
    at = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    if at is None and len(ours.token_ids) != len(theirs.token_ids):
        at = min(len(ours.token_ids), len(theirs.token_ids))
    margin = None if at is None else theirs.margins[min(at, len(theirs.margins) - 1)]
    difference = float(np.abs(ours.logits - theirs.logits).max())
    kept_equal, kept_tie = _kept(ours, theirs)
    return {
        "at": at,
        "margin": None if margin is None else margin / theirs.scale,
        "tie": margin is not None and within(margin, theirs.scale),
        "logits": difference / max(1.0, float(np.abs(theirs.logits).max())),
        "kept_equal": kept_equal,
        "kept_tie": kept_tie,
    }


def _kept(ours: Ours, theirs: Theirs) -> tuple[bool, bool]:
    """Whether the same tokens are kept of every tile, and whether a rounding decides where not."""
    if not theirs.tiles:
        return True, False
    pairs = [
        pair
        for features, references in zip(ours.features, theirs.tiles, strict=True)
        for pair in zip(features, references, strict=True)
    ]
    rows = [row for features, reference in pairs for row in compare_kept(features, reference)]
    same = all(row.same for row in rows)
    return same, not same and all(row.cut_distance < TIE for row in rows)


def fails(row: dict[str, Any], *, exact: bool) -> bool:
    """Whether a row of a float32 configuration differs beyond a tie. Of other tokens that a tie
    keeps there are other logits and another answer."""
    if not exact or row["kept_tie"]:
        return False
    beyond = row["at"] is not None and not row["tie"]
    return beyond or not row["kept_equal"] or not within(row["logits"], 1.0)
