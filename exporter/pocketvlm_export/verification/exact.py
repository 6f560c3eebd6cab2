"""Knows what a float32 graph may differ in from its reference: rounding, and which of two patches
that are tied is kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm_export.verification.bounds import STEPS, TOLERANCE, agreement, within
from pocketvlm_export.verification.decoder_reference import DecoderReference
from pocketvlm_export.verification.kept import KeptRow, largest
from pocketvlm_export.verification.lost import judge_dropped
from pocketvlm_export.verification.vision_reference import Floats, Ints, VisionReference

# relative distance below which keeping another patch is a tie, not an error, see `Ranking.distance`
TIE = 1e-6
# part of the merged tokens that is compared at least: flat pictures leave much to rounding
_LEAST_COMPARED = 0.5


@dataclass(frozen=True)
class GateAnswer:
    """What a decoder answers to the gate's prompt.

    Attributes:
        token_ids: greedy, picked as on a device.
        logits: before each of them, (steps, vocab).
        prompt_equal: the prompt's ids are those of transformers.
        kept_prompt: which of the prompt's tokens a decoder that drops some of them kept, stage by
            stage.
        visual_scores: what attention paid to each visual token, of a decoder that says so.
    """

    token_ids: list[int]
    logits: Floats
    prompt_equal: bool
    kept_prompt: Sequence[Ints] = ()
    visual_scores: npt.NDArray[np.float64] | None = None


def judge_vision(rows: Sequence[KeptRow], references: Iterable[VisionReference]) -> dict[str, Any]:
    """Return how the pictures of every budget compare with their references; ``passed`` says
    whether they are equal to within rounding."""
    references = list(references)
    # Maxima are numpy's, here and below: Python's own pass over NaN.
    difference = float(np.max([largest(row.ours - row.theirs) for row in rows]))
    score_difference = float(np.max([row.score_difference for row in rows]))
    largest_features = [largest(reference.image_features) for reference in references]
    scale = float(np.max([1.0, *largest_features]))
    # Each row alone: a tie in one picture excuses nothing in another. Those that are the same are
    # asked too: the order that their scores put them in may matter.
    kept = all(row.ascending and row.cut_distance < TIE for row in rows)
    # Another budget is cut from the scores at run time, so they are held to the same bound.
    passed = kept and within(difference, scale) and score_difference <= TOLERANCE
    merged = {}
    if any(reference.mixers for reference in references):
        # Of tokens that a rounding decides the merging of nothing can be compared.
        compared = sum(len(row.ours) for row in rows) / sum(
            reference.kept_indices.size for reference in references
        )
        merged, passed = {"merged_compared": compared}, passed and compared >= _LEAST_COMPARED
    return {
        "max_abs": difference,
        "max_reference": scale,
        "scores_max_abs": score_difference,
        "kept_equal": all(row.same for row in rows),
        "min_gap": min(reference.gap for reference in references),
        **merged,
        "passed": passed,
    }


def judge_answer(answer: GateAnswer, reference: DecoderReference) -> dict[str, Any]:
    """Return how an answer's ids, logits and tokens compare with the reference's; ``passed`` says
    whether they are equal to within rounding."""
    agreed = agreement(answer.token_ids, reference.token_ids)
    compared = min(agreed + 1, STEPS)  # logits after another token answer another question
    difference = largest(answer.logits[:compared] - reference.logits[:compared])
    scale = float(np.max([1.0, largest(reference.logits)]))
    dropping = judge_dropped(answer.kept_prompt, reference)
    passed = answer.prompt_equal and agreed == STEPS and within(difference, scale)
    passed = passed and dropping.get("cut_distance", 0.0) < TIE
    paid = _judge_scores(answer, reference)
    passed = passed and within(paid.get("scores_max_abs", 0.0), paid.get("scores_max", 1.0))
    return {
        "max_abs": difference,
        "max_reference": scale,
        "greedy_tokens": STEPS,
        "greedy_equal": agreed,
        "prompt_equal": answer.prompt_equal,
        **dropping,
        **paid,
        "passed": passed,
    }


def _judge_scores(answer: GateAnswer, reference: DecoderReference) -> dict[str, float]:
    """Return how what attention paid to visual tokens compares with whole maps; nothing of a
    decoder that does not say."""
    ours, theirs = answer.visual_scores, reference.visual_scores
    if ours is None or theirs is None:
        return {}
    return {
        "scores_max_abs": largest(ours - theirs) if ours.shape == theirs.shape else float("inf"),
        "scores_max": float(np.max([1.0, largest(theirs)])),
    }
