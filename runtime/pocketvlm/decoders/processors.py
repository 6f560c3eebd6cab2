"""Knows each step between a decoder's logits and the scores that a token is picked from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating[Any]]
# From the ids so far, int64 (n,), prompt and answer, and scores (vocab,): scores (vocab,) of the
# same dtype. The scores that come in are left as they are.
Processor = Callable[[Ints, Scores], Scores]

# Each equals the class of transformers 5.23 (generation/logits_process.py) named in its docstring,
# dtype included: float32 scores are computed in float32, so that greedy answers agree to the token.
# A new one is a function here and a line in the lists of `pocketvlm.decoders.sampling`.


def penalise_repetition(ids: Ints, scores: Scores, *, penalty: float) -> Scores:
    """Divide positive scores of ids that occurred by ``penalty``, multiply negative ones by it.

    Each id is penalised once, however often it occurred. Keskar et al. 2019, section 4.1
    (arXiv 1909.05858); transformers' ``RepetitionPenaltyLogitsProcessor``.
    """
    occurred = np.unique(_in_vocabulary(ids, scores))
    before, after = scores[occurred], scores.copy()
    with np.errstate(all="ignore"):  # an overflow is refused by whoever picks
        after[occurred] = np.where(before < 0, before * penalty, before / penalty)
    return after


def ban_repeated_ngrams(ids: Ints, scores: Scores, *, size: int) -> Scores:
    """Rule out every id that would complete a run of ``size`` ids that occurred before.

    transformers' ``NoRepeatNGramLogitsProcessor``.
    """
    if len(ids) < size:
        return scores
    runs = np.lib.stride_tricks.sliding_window_view(ids, size)
    begins_alike = (runs[:, :-1] == ids[len(ids) + 1 - size :]).all(axis=1)
    return _without(scores, runs[begins_alike, -1])


def delay_end(
    ids: Ints, scores: Scores, *, prompt: int, min_new_tokens: int, eos_token_ids: Ints
) -> Scores:
    """Rule out the ids that end an answer while it has fewer than ``min_new_tokens`` tokens.

    ``prompt`` is the number of ids before the answer. transformers'
    ``MinNewTokensLengthLogitsProcessor``.
    """
    return _without(scores, eos_token_ids) if len(ids) - prompt < min_new_tokens else scores


def suppress(ids: Ints, scores: Scores, *, token_ids: Ints) -> Scores:
    """Rule out ``token_ids`` always; transformers' ``SuppressTokensLogitsProcessor``."""
    return _without(scores, token_ids)


def scale(ids: Ints, scores: Scores, *, temperature: float) -> Scores:
    """Divide by the temperature; transformers' ``TemperatureLogitsWarper``.

    A tiny temperature makes infinities, and inf - inf later on. Then the highest score is taken off
    first, which changes no probability; only then, as it rounds and makes ties for `keep_top_k`.
    """
    with np.errstate(over="ignore"):
        scaled: Scores = scores / temperature
        if not np.isfinite(scaled.max()):
            scaled = (scores - scores.max()) / temperature
    return scaled


def keep_top_k(ids: Ints, scores: Scores, *, count: int) -> Scores:
    """Rule out scores below the ``count``-th highest, so ties with it stay.

    Fan et al. 2018, section 5.2 (arXiv 1805.04833); transformers' ``TopKLogitsWarper``.
    """
    count = min(count, scores.size)
    lowest = np.partition(scores, scores.size - count)[scores.size - count]
    return np.where(scores < lowest, -np.inf, scores).astype(scores.dtype)


def keep_top_p(ids: Ints, scores: Scores, *, mass: float) -> Scores:
    """Keep the smallest set of ids whose probability reaches ``mass``, the nucleus.

    Of equal scores at its edge those with the lower ids stay; which stay in transformers'
    ``TopPLogitsWarper``, as many, is left to the order its sort happens to give them. Holtzman et
    al. 2020, section 3.1 (arXiv 1904.09751).
    """
    probabilities = softmax(scores)
    likely, rest = _likely(scores, probabilities, mass)
    rising = likely[np.argsort(-scores[likely], kind="stable")][::-1]
    removed = rest + np.cumsum(probabilities[rising]) <= 1 - mass
    removed[-1] = False
    return _only(scores, rising[~removed])


def _likely(scores: Scores, probabilities: Scores, mass: float) -> tuple[Ints, float]:
    """Ids among which the nucleus is, and the probability of all others together.

    Sorting a whole vocabulary takes longer than many a step of a decoder, and is seldom needed.
    """
    possible = np.flatnonzero(scores > -np.inf)
    for count in (1 << 10, 1 << 13, 1 << 16):
        if count >= len(possible):
            break
        lowest = np.partition(scores[possible], -count)[-count]
        likely = possible[scores[possible] >= lowest]
        rest = 1 - float(probabilities[likely].sum())
        if rest <= 1 - mass:
            return likely, rest
    return possible, 0.0


def keep_min_p(ids: Ints, scores: Scores, *, share: float) -> Scores:
    """Rule out ids that are less probable than ``share`` times the most probable one.

    Nguyen et al. 2024 (arXiv 2407.01082); transformers' ``MinPLogitsWarper``.
    """
    probabilities = softmax(scores)
    return _without(scores, np.flatnonzero(probabilities < share * probabilities.max()))


def apply(processors: Sequence[Processor], ids: Ints, scores: Scores) -> Scores:
    """Scores (vocab,) after all of them, one after another."""
    for process in processors:
        scores = process(ids, scores)
    return scores


def softmax(scores: Scores) -> Scores:
    """Probabilities (n,) of scores (n,), of which the highest must be finite."""
    exponentials: Scores = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def _only(scores: Scores, token_ids: Ints) -> Scores:
    """A copy in which no other ids can be picked."""
    after = np.full_like(scores, -np.inf)
    after[token_ids] = scores[token_ids]
    return after


def _without(scores: Scores, token_ids: Ints) -> Scores:
    """A copy in which these ids cannot be picked."""
    after = scores.copy()
    after[_in_vocabulary(token_ids, scores)] = -np.inf
    return after


def _in_vocabulary(token_ids: Ints, scores: Scores) -> Ints:
    """Some vocabularies hold ids that the head of the model gives no logits for."""
    return token_ids[token_ids < scores.size]
