"""Knows each step between a decoder's logits and the scores that a token is picked from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating[Any]]
# From the ids so far, int64 (n,), prompt and answer, and scores (vocab,): scores (vocab,) of the
# same dtype. The scores that come in are left as they are.
Processor = Callable[[Ints, Scores], Scores]

# Each but OpenAI's equals the class of transformers 5.23 (generation/logits_process.py) named in
# its docstring, dtype included: float32 scores are computed in float32, so that greedy answers
# agree to the token.
# A new one is a function here and a line in the lists of `pocketvlm.decoders.sampler`.


@dataclass(frozen=True)
class SequenceGroup:
    """Sequences of one length, a row each.

    Attributes:
        prefixes: int64 (n, length - 1), all but their last ids.
        lasts: int64 (n,), those.
        biases: float32 (n,), what is added to the scores of those.
    """

    prefixes: Ints
    lasts: Ints
    biases: npt.NDArray[np.float32]

    def completed(self, ids: Ints) -> npt.NDArray[np.bool_]:
        """Of which sequences ``ids`` end with all but the last id, bool (n,)."""
        length = self.prefixes.shape[1]
        if length > len(ids):
            return np.zeros(len(self.lasts), dtype=bool)
        completed: npt.NDArray[np.bool_] = (self.prefixes == ids[len(ids) - length :]).all(axis=1)
        return completed


def group_sequences(biases: Sequence[tuple[Sequence[int], float]]) -> list[SequenceGroup]:
    """Sequences of ids and their biases by length; of equal ones the last counts."""
    by_length: dict[int, dict[tuple[int, ...], float]] = {}
    for sequence, bias in biases:
        by_length.setdefault(len(sequence), {})[tuple(sequence)] = bias
    return [
        SequenceGroup(
            (rows := np.array(list(group), dtype=np.int64))[:, :-1],
            rows[:, -1],
            np.array(list(group.values()), dtype=np.float32),
        )
        for group in by_length.values()
    ]


def bias_sequences(ids: Ints, scores: Scores, *, groups: Sequence[SequenceGroup]) -> Scores:
    """Add a bias to the score of each id that would complete a sequence.

    transformers' ``SequenceBiasLogitsProcessor``.
    """
    bias = np.zeros_like(scores)
    for group in groups:
        added = group.completed(ids) & (group.lasts < scores.size)
        np.add.at(bias, group.lasts[added], group.biases[added])
    return scores + bias


def ban_sequences(ids: Ints, scores: Scores, *, groups: Sequence[SequenceGroup]) -> Scores:
    """Rule out every id that would complete a sequence; biases are not read.

    transformers' ``NoBadWordsLogitsProcessor``.
    """
    return _without(scores, np.concatenate([each.lasts[each.completed(ids)] for each in groups]))


def favour_prompt(ids: Ints, scores: Scores, *, prompt: int, penalty: float) -> Scores:
    """As `penalise_repetition` by the inverse, of the first ``prompt`` ids.

    transformers' ``EncoderRepetitionPenaltyLogitsProcessor``.
    """
    return penalise_repetition(ids[:prompt], scores, penalty=1 / penalty)


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


def ban_prompt_ngrams(ids: Ints, scores: Scores, *, prompt: int, size: int) -> Scores:
    """Rule out every id that would complete a run of ``size`` ids of the first ``prompt`` ones.

    transformers' ``EncoderNoRepeatNGramLogitsProcessor``.
    """
    if prompt < size:
        return scores
    runs = np.lib.stride_tricks.sliding_window_view(ids[:prompt], size)
    begins_alike = (runs[:, :-1] == ids[len(ids) + 1 - size :]).all(axis=1)
    return _without(scores, runs[begins_alike, -1])


def delay_end(
    ids: Ints, scores: Scores, *, prompt: int, min_new_tokens: int, eos_token_ids: Ints
) -> Scores:
    """Rule out the ids that end an answer while it has fewer than ``min_new_tokens`` tokens.

    ``prompt`` is the number of ids before the answer. transformers'
    ``MinNewTokensLengthLogitsProcessor``, and with 0 ``MinLengthLogitsProcessor``.
    """
    return _without(scores, eos_token_ids) if len(ids) - prompt < min_new_tokens else scores


def force_last(ids: Ints, scores: Scores, *, length: int, token_ids: Ints) -> Scores:
    """Rule out all but ``token_ids`` once one id is left to ``length``, prompt and answer together.

    transformers' ``ForcedEOSTokenLogitsProcessor``.
    """
    if len(ids) != length - 1:
        return scores
    after = np.full_like(scores, -np.inf)
    after[_in_vocabulary(token_ids, scores)] = 0
    return after


def remove_invalid(ids: Ints, scores: Scores) -> Scores:
    """Put 0 for NaN and the type's largest numbers for infinite scores.

    transformers' ``InfNanRemoveLogitsProcessor``.
    """
    return np.nan_to_num(scores)


def hasten_end(
    ids: Ints, scores: Scores, *, start: int, factor: float, eos_token_ids: Ints
) -> Scores:
    """Raise the scores of ``eos_token_ids`` by a power of ``factor``, token by token from ``start``
    on.

    transformers' ``ExponentialDecayLengthPenalty``.
    """
    if len(ids) <= start:
        return scores
    ends, after = _in_vocabulary(eos_token_ids, scores), scores.copy()
    before = scores[ends]
    with np.errstate(over="ignore", invalid="ignore"):  # refused by whoever picks
        growth = float(np.float64(factor) ** (len(ids) - start)) - 1
        after[ends] = before + np.where(np.isfinite(before), np.abs(before) * growth, 0)
    return after


def suppress(ids: Ints, scores: Scores, *, token_ids: Ints) -> Scores:
    """Rule out ``token_ids`` always; transformers' ``SuppressTokensLogitsProcessor``."""
    return _without(scores, token_ids)


def suppress_first(ids: Ints, scores: Scores, *, prompt: int, token_ids: Ints) -> Scores:
    """Rule out ``token_ids`` where the answer begins, after ``prompt`` ids.

    transformers' ``SuppressTokensAtBeginLogitsProcessor``.
    """
    return _without(scores, token_ids) if len(ids) == prompt else scores


def penalise_answer(
    ids: Ints, scores: Scores, *, prompt: int, presence: float, frequency: float
) -> Scores:
    """Subtract ``presence`` from the score of each id that the answer so far has, and ``frequency``
    as often as it has it. The first ``prompt`` ids do not count.

    OpenAI's ``presence_penalty`` and ``frequency_penalty``, as its API reference defines them and
    vLLM computes them.
    """
    answer = _in_vocabulary(ids[prompt:], scores)
    occurred, counts = np.unique(answer, return_counts=True)
    after = scores.copy()
    after[occurred] -= (presence + frequency * counts).astype(scores.dtype)
    return after


def bias_tokens(ids: Ints, scores: Scores, *, token_ids: Ints, biases: Scores) -> Scores:
    """Add ``biases`` (n,) to the scores of ``token_ids`` (n,); OpenAI's ``logit_bias``."""
    after, inside = scores.copy(), token_ids < scores.size
    np.add.at(after, token_ids[inside], biases[inside].astype(scores.dtype))
    return after


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


def keep_typical(ids: Ints, scores: Scores, *, mass: float) -> Scores:
    """Keep the ids whose surprise is nearest to the expected one, until their probability reaches
    ``mass``; those as near as the last of them stay.

    Meister et al. 2022 (arXiv 2202.00666); transformers' ``TypicalLogitsWarper``.
    """
    probabilities = softmax(scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        distance = np.abs(surprise - np.nansum(probabilities * surprise))
    order = np.argsort(distance, kind="stable")
    reached = int((np.cumsum(probabilities[order]) < mass).sum())
    farthest = distance[order[min(reached, scores.size - 1)]]
    removed = distance > farthest
    removed[order[0]] = False
    return _without(scores, np.flatnonzero(removed))


def keep_allowed(scores: Scores, allowed: npt.NDArray[np.bool_]) -> Scores:
    """Rule out ids of which ``allowed``, bool (vocab,), says no."""
    return np.where(allowed, scores, -np.inf).astype(scores.dtype)


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
