"""Knows how the next token is picked from logits: the steps in their order, then the highest score
or a draw."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
import numpy.typing as npt

from pocketvlm.decoders import processors as steps
from pocketvlm.decoders.constraints import Constraint
from pocketvlm.decoders.processors import Processor, Scores
from pocketvlm.decoders.sampling import GREEDY, Sampling
from pocketvlm.errors import EngineError, RequestError


class Sampler:
    """Picks the tokens of one answer, for every engine; the same seed and logits give the same.

    It remembers what it picked, as some steps read all ids so far. transformers' steps come in
    transformers' order (``GenerationMixin._get_logits_processor``), OpenAI's behind those of them
    that greedy answers go through, and behind all these what a constraint rules out.

    Args:
        sampling: see `Sampling`; what is None in it changes nothing, so a checkpoint's own
            settings must be in it, see `Sampling.over`.
        prompt_ids: int64 (n,), the prompt with every visual token's slot in it.
        eos_token_ids: those that end an answer.
        dropped: visual tokens that the prompt has lost by pruning, see `Sampling.min_length`.
        constraint: of this answer, where ``sampling`` has a ``json_schema``; see
            `pocketvlm.decoders.constraints.Grammars`.
    """

    def __init__(
        self,
        sampling: Sampling = GREEDY,
        prompt_ids: npt.ArrayLike = (),
        eos_token_ids: Iterable[int] = (),
        *,
        dropped: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        self.sampling = sampling.settled()
        if (self.sampling.json_schema is None) != (constraint is None):
            raise ValueError("a constraint belongs to a json_schema, and a json_schema to one")
        self._constraint = constraint
        self._ids = np.array(prompt_ids, dtype=np.int64)
        self._processors = make_processors(
            self.sampling, len(self._ids), eos_token_ids, dropped=dropped
        )
        self._warpers = make_warpers(self.sampling)
        self._rng = np.random.default_rng(self.sampling.seed)

    @property
    def is_whole(self) -> bool:
        """Whether a constraint lets nothing but the end follow."""
        return self._constraint is not None and self._constraint.is_whole

    def pick(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token id from float32 (vocab,) logits.

        Raises:
            EngineError: logits that are NaN or overflowed.
            RequestError: settings that rule out every token, or a penalty that overflows.
        """
        scores = self.scores(logits)
        if self.sampling.temperature == 0:
            token = int(np.argmax(scores))
        else:
            token = int(self._rng.choice(scores.size, p=self._distribution(scores)))
        self.follow(token)
        return token

    def follow(self, token_id: int) -> None:
        """Take this token for the one that was picked."""
        if self._constraint is not None:
            self._constraint.follow(token_id)
        self._ids = np.append(self._ids, token_id)

    def probabilities(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The distribution that `pick` would draw from, float64 (vocab,); raises as `pick`.

        It is computed in float64 from temperature on. At temperature 0 one token has all of it.
        """
        scores = self.scores(logits)
        if self.sampling.temperature == 0:
            return np.eye(1, scores.size, int(np.argmax(scores)))[0]
        return self._distribution(scores)

    def scores(self, logits: npt.NDArray[np.float32]) -> Scores:
        """What a greedy answer compares, float32 (vocab,), the highest finite; raises as `pick`."""
        if not self.sampling.remove_invalid_values:
            check_finite(logits)
        scores = steps.apply(self._processors, self._ids, logits)
        if self._constraint is not None:
            scores = steps.keep_allowed(scores, self._constraint.allowed(scores.size))
        highest = scores.max()
        if highest == -np.inf:
            within = "" if self._constraint is None else " that the JSON schema allows"
            raise RequestError(
                f"the sampling settings rule out every token{within}",
                advice="relax suppress_tokens, bad_words_ids, no_repeat_ngram_size or "
                "min_new_tokens",
            )
        if not np.isfinite(highest):
            name, factor = self._multiplier()
            raise RequestError(
                f"logits overflow with {name} {factor}",
                advice="take one closer to 1",
                setting=name,
            )
        return scores

    def _multiplier(self) -> tuple[str, float]:
        """Of the settings that scores are multiplied by, the one furthest from 1, and its value."""
        asked = self.sampling
        factors = {
            "repetition_penalty": asked.repetition_penalty or 1.0,
            "encoder_repetition_penalty": asked.encoder_repetition_penalty or 1.0,
            "exponential_decay_length_penalty": (
                asked.exponential_decay_length_penalty or (0, 1.0)
            )[1],
        }
        return max(factors.items(), key=lambda row: abs(math.log(row[1])))

    def _distribution(self, scores: Scores) -> npt.NDArray[np.float64]:
        warped = steps.apply(self._warpers, self._ids, scores.astype(np.float64))
        return steps.softmax(warped).astype(np.float64, copy=False)


def check_finite(logits: npt.NDArray[np.float32]) -> None:
    """Raise `EngineError` for logits that are NaN or overflowed; some may be -inf, not all."""
    if not np.isfinite(logits.max()):  # NaN wherever one logit is
        raise EngineError(
            "the decoder's logits are not finite",
            advice="try another --decoder-precision, or export again",
        )


def make_processors(
    sampling: Sampling, prompt: int, eos_token_ids: Iterable[int], *, dropped: int = 0
) -> list[Processor]:
    """The steps that greedy answers go through too, in transformers' order.

    ``prompt`` is the number of ids before the answer, without the ``dropped`` visual tokens.
    """
    asked = sampling.settled()
    eos = np.array(sorted(eos_token_ids), dtype=np.int64)
    ends = {(token,) for token in eos.tolist()}
    words = [tuple(word) for word in asked.bad_words_ids or () if tuple(word) not in ends]
    never, first, last = (
        np.array(ids or (), dtype=np.int64)
        for ids in (
            asked.suppress_tokens,
            asked.begin_suppress_tokens,
            asked.forced_eos_token_id,
        )
    )
    # As plain floats: scalars of numpy would turn float32 scores into float64.
    penalty = float(asked.repetition_penalty or 1)
    favour = float(asked.encoder_repetition_penalty or 1)
    size, prompt_size = asked.no_repeat_ngram_size or 0, asked.encoder_no_repeat_ngram_size or 0
    start, factor = asked.exponential_decay_length_penalty or (0, 1.0)
    least, least_new = (asked.min_length or 0) - dropped, asked.min_new_tokens or 0
    if asked.min_new_tokens is not None:  # as in transformers: one of the two counts
        least = 0
    if asked.json_schema is not None:  # which alone says where the answer may end
        least, least_new, last = 0, 0, last[:0]
    biases = steps.group_sequences(asked.sequence_bias or ())
    banned = steps.group_sequences([(word, 0.0) for word in words])
    presence, frequency = float(asked.presence_penalty), float(asked.frequency_penalty)
    pairs = tuple(asked.logit_bias)
    biased = np.array([token for token, _ in pairs], dtype=np.int64)
    added = np.array([bias for _, bias in pairs], dtype=np.float64)
    until = asked.max_new_tokens + prompt
    end_later = partial(steps.delay_end, eos_token_ids=eos)
    return _in_use(
        (len(biases) > 0, partial(steps.bias_sequences, groups=biases)),
        (favour != 1, partial(steps.favour_prompt, prompt=prompt, penalty=favour)),
        (penalty != 1, partial(steps.penalise_repetition, penalty=penalty)),
        (size > 0, partial(steps.ban_repeated_ngrams, size=size)),
        (prompt_size > 0, partial(steps.ban_prompt_ngrams, prompt=prompt, size=prompt_size)),
        (len(banned) > 0, partial(steps.ban_sequences, groups=banned)),
        (least > 0, partial(end_later, prompt=0, min_new_tokens=least)),
        (least_new > 0, partial(end_later, prompt=prompt, min_new_tokens=least_new)),
        (len(last) > 0, partial(steps.force_last, length=until, token_ids=last)),
        (bool(asked.remove_invalid_values), steps.remove_invalid),
        (
            factor != 1,
            partial(steps.hasten_end, start=prompt + start, factor=factor, eos_token_ids=eos),
        ),
        (len(never) > 0, partial(steps.suppress, token_ids=never)),
        (len(first) > 0, partial(steps.suppress_first, prompt=prompt, token_ids=first)),
        (
            presence != 0 or frequency != 0,
            partial(steps.penalise_answer, prompt=prompt, presence=presence, frequency=frequency),
        ),
        (len(biased) > 0, partial(steps.bias_tokens, token_ids=biased, biases=added)),
    )


def make_warpers(sampling: Sampling) -> list[Processor]:
    """The steps that only sampling goes through, in transformers' order."""
    asked = sampling.settled()
    temperature, top_k = asked.temperature or 0.0, asked.top_k or 0
    top_p, min_p, typical_p = asked.top_p or 1.0, asked.min_p or 0.0, asked.typical_p or 1.0
    return _in_use(
        (temperature > 0, partial(steps.scale, temperature=temperature)),
        (top_k > 0, partial(steps.keep_top_k, count=top_k)),
        (top_p < 1, partial(steps.keep_top_p, mass=top_p)),
        (min_p > 0, partial(steps.keep_min_p, share=min_p)),
        (typical_p < 1, partial(steps.keep_typical, mass=typical_p)),
    )


def _in_use(*rows: tuple[bool, Processor]) -> list[Processor]:
    return [process for used, process in rows if used]
