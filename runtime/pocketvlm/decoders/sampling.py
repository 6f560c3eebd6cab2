"""Knows how tokens are picked from logits: what may be asked for, and the steps in their order."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.decoders import processors as steps
from pocketvlm.decoders.processors import Processor, Scores
from pocketvlm.errors import EngineError, RequestError
from pocketvlm.limits import is_int, settle_numbers


@dataclass(frozen=True)
class Sampling:
    """How an answer is picked token by token, and when it ends; the defaults are greedy.

    Names and meanings are those of transformers' ``GenerationConfig``, but for ``temperature`` 0 in
    place of ``do_sample=False`` and ``stop`` in place of ``stop_strings``.

    Attributes:
        max_new_tokens: the answer ends after so many tokens, at least 1.
        min_new_tokens: it does not end by the model's own end token before it has so many. A stop
            text ends it all the same.
        temperature: logits are divided by it; 0 is greedy, the highest logit with ties to the lower
            id, whatever ``top_k``, ``top_p``, ``min_p`` and ``seed`` are.
        top_k: pick among the so many most probable tokens; None is all.
        top_p: pick among the most probable tokens that together reach this probability, above 0 and
            up to 1, which is all.
        min_p: pick among tokens at least this share as probable as the most probable one, 0 to 1.
        repetition_penalty: above 1 makes tokens of the prompt and of the answer so far less
            probable, below 1 more; above 0.
        no_repeat_ngram_size: no so many tokens in a row come twice in prompt and answer; 0 is off.
        suppress_tokens: ids that are never picked.
        seed: makes sampling repeatable, 0 or above; None takes fresh entropy.
        stop: texts that end the answer. It is given out up to the first of them, without it.

    Raises:
        RequestError: a value out of range; its ``setting`` is the name of the field.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle_numbers(self)
        for name in ("suppress_tokens", "stop"):
            value = getattr(self, name)
            if isinstance(value, list):  # as they come from JSON
                object.__setattr__(self, name, tuple(value))
        self._check_length()
        self._check_distribution()
        self._check_texts_and_ids()

    def _check_length(self) -> None:
        self._check("max_new_tokens", is_int(self.max_new_tokens, least=1), "at least 1")
        within = is_int(self.min_new_tokens, least=0) and self.min_new_tokens <= self.max_new_tokens
        self._check("min_new_tokens", within, f"0 to max_new_tokens, {self.max_new_tokens}")

    def _check_distribution(self) -> None:
        valid = _is_number(self.temperature) and self.temperature >= 0
        self._check("temperature", valid, "0 (greedy) or a number above it")
        valid = self.top_k is None or is_int(self.top_k, least=1)
        self._check("top_k", valid, "at least 1, or None for all")
        valid = _is_number(self.top_p) and 0 < self.top_p <= 1
        self._check("top_p", valid, "a number above 0, up to 1")
        valid = _is_number(self.min_p) and 0 <= self.min_p <= 1
        self._check("min_p", valid, "a number from 0 to 1")
        valid = _is_number(self.repetition_penalty) and self.repetition_penalty > 0
        self._check("repetition_penalty", valid, "a number above 0, 1 for none")
        valid = is_int(self.no_repeat_ngram_size, least=0)
        self._check("no_repeat_ngram_size", valid, "0 (off) or a number above it")
        valid = self.seed is None or is_int(self.seed, least=0)
        self._check("seed", valid, "0 or a number above it")

    def _check_texts_and_ids(self) -> None:
        ids, texts = self.suppress_tokens, self.stop
        valid = isinstance(ids, tuple) and all(
            is_int(each, least=0) and each < 1 << 31 for each in ids
        )
        self._check("suppress_tokens", valid, "a tuple of token ids")
        valid = isinstance(texts, tuple) and all(isinstance(text, str) and text for text in texts)
        self._check("stop", valid, "a tuple of texts, none of them empty")

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            value = getattr(self, name)
            text = repr(value) if isinstance(value, (str, tuple)) else str(value)
            raise RequestError(f"{name} {text[:80]}", expected=expected, setting=name)


def check_sampling(sampling: Any) -> None:
    """Raise `RequestError` where it is no `Sampling`, whose values have been checked."""
    if not isinstance(sampling, Sampling):
        raise RequestError(
            f"sampling is of type {type(sampling).__name__}",
            expected="a pocketvlm.Sampling",
            advice="leave it out for a greedy answer",
            setting="sampling",
        )


class Sampler:
    """Picks the tokens of one answer, for every engine; the same seed and logits give the same.

    It remembers what it picked, as some steps read all ids so far. transformers' steps come in
    transformers' order (``GenerationMixin._get_logits_processor``).

    Args:
        sampling: see `Sampling`.
        prompt_ids: int64 (n,), the prompt with every visual token's slot in it.
        eos_token_ids: those that end an answer.
    """

    def __init__(
        self,
        sampling: Sampling | None = None,
        prompt_ids: npt.ArrayLike = (),
        eos_token_ids: Iterable[int] = (),
    ) -> None:
        self.sampling = sampling or Sampling()
        self._ids = np.array(prompt_ids, dtype=np.int64)
        self._processors = make_processors(self.sampling, len(self._ids), eos_token_ids)
        self._warpers = make_warpers(self.sampling)
        self._rng = np.random.default_rng(self.sampling.seed)

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
        self._ids = np.append(self._ids, token)
        return token

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
        check_finite(logits)
        scores = steps.apply(self._processors, self._ids, logits)
        highest = scores.max()
        if highest == -np.inf:
            raise RequestError(
                "the sampling settings rule out every token",
                advice="relax suppress_tokens, no_repeat_ngram_size or min_new_tokens",
            )
        if not np.isfinite(highest):
            penalty = self.sampling.repetition_penalty
            raise RequestError(
                f"logits overflow with repetition_penalty {penalty}",
                advice="take one closer to 1",
                setting="repetition_penalty",
            )
        return scores

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
    sampling: Sampling, prompt: int, eos_token_ids: Iterable[int]
) -> list[Processor]:
    """The steps that greedy answers go through too, in transformers' order.

    ``prompt`` is the number of ids before the answer. ``bad_words_ids`` come before `delay_end`,
    forced tokens after it, ``begin_suppress_tokens`` last.
    """
    eos = np.array(sorted(eos_token_ids), dtype=np.int64)
    suppressed = np.array(sampling.suppress_tokens, dtype=np.int64)
    # As plain floats: scalars of numpy would turn float32 scores into float64.
    penalty, size = float(sampling.repetition_penalty), sampling.no_repeat_ngram_size
    delay = partial(
        steps.delay_end,
        prompt=prompt,
        min_new_tokens=sampling.min_new_tokens,
        eos_token_ids=eos,
    )
    return _in_use(
        (penalty != 1, partial(steps.penalise_repetition, penalty=penalty)),
        (size > 0, partial(steps.ban_repeated_ngrams, size=size)),
        (sampling.min_new_tokens > 0, delay),
        (len(suppressed) > 0, partial(steps.suppress, token_ids=suppressed)),
    )


def make_warpers(sampling: Sampling) -> list[Processor]:
    """The steps that only sampling goes through, in transformers' order."""
    return _in_use(
        (sampling.temperature > 0, partial(steps.scale, temperature=sampling.temperature)),
        (sampling.top_k is not None, partial(steps.keep_top_k, count=sampling.top_k or 0)),
        (sampling.top_p < 1, partial(steps.keep_top_p, mass=sampling.top_p)),
        (sampling.min_p > 0, partial(steps.keep_min_p, share=sampling.min_p)),
    )


def _in_use(*rows: tuple[bool, Processor]) -> list[Processor]:
    return [process for used, process in rows if used]


def _is_number(value: Any) -> bool:
    numeric = isinstance(value, (int, float))
    return numeric and not isinstance(value, bool) and bool(abs(value) <= sys.float_info.max)


GREEDY = Sampling()
