"""Knows how tokens may be asked to be picked: each setting, its range, and what it is where it is
left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np

from pocketvlm.artifact.specs import Generation
from pocketvlm.decoders.json_schemas import schema_text
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.limits import is_int, plain, settle_numbers

Base = Literal["greedy", "checkpoint"]
TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """How an answer is picked token by token, and when it ends; the defaults are greedy.

    >>> from pocketvlm import VLM, Sampling
    >>> vlm = VLM.load("demo-vlm")
    >>> sampling = Sampling(max_new_tokens=4, temperature=0.7, top_p=0.9, seed=1)
    >>> len(vlm.generate("Describe the picture.", sampling=sampling).token_ids) <= 4
    True
    >>> Sampling(top_p=2)
    Traceback (most recent call last):
    pocketvlm.errors.RequestError: top_p 2: expected a number above 0, up to 1

    Names and meanings are those of transformers' ``GenerationConfig``, but for ``temperature`` 0 in
    place of ``do_sample=False`` and ``stop`` in place of ``stop_strings``. Those of
    ``presence_penalty``, ``frequency_penalty`` and ``logit_bias`` are OpenAI's.

    None is the checkpoint's published value. For temperature, ``top_k``, ``top_p``, ``min_p`` and
    ``typical_p`` it applies if ``base`` is ``"checkpoint"``. Those that affect greedy answers too
    always apply, as in transformers' ``generate``. If the checkpoint states no value, the setting
    changes nothing.

    Attributes:
        max_new_tokens: the answer ends after so many tokens, at least 1.
        min_new_tokens: the model's end token does not end the answer before it has so many. A stop
            text still does.
        temperature: logits are divided by it; 0 is greedy, the highest logit with ties to the lower
            id, whatever ``top_k``, ``top_p``, ``min_p``, ``typical_p`` and ``seed`` are.
        top_k: pick among this many of the most probable tokens; 0 is all.
        top_p: pick among the most probable tokens that together reach this probability, above 0 and
            up to 1, which is all.
        min_p: pick among tokens at least this share as probable as the most probable one, 0 to 1.
        typical_p: pick among the tokens whose surprise is nearest to the expected one and that
            together reach this probability, above 0 and up to 1, which is all.
        repetition_penalty: above 1 makes tokens of the prompt and of the answer so far less
            probable, below 1 more; above 0.
        no_repeat_ngram_size: no sequence of so many tokens occurs twice in prompt and answer; 0 is
            off.
        suppress_tokens: ids that are never picked.
        seed: makes sampling repeatable, 0 or above; None takes fresh entropy.
        stop: texts that end the answer; they are not part of it.
        base: ``"greedy"``, or ``"checkpoint"`` to sample with the checkpoint's published settings.
        min_length: as ``min_new_tokens``, the prompt counted with all visual tokens, those dropped
            too; without effect where ``min_new_tokens`` is given.
        bad_words_ids: sequences of ids that are never completed.
        begin_suppress_tokens: ids that the answer does not begin with.
        sequence_bias: pairs of a sequence of ids and what is added to the score of completing it.
        encoder_repetition_penalty: above 1 makes tokens of the prompt more probable; above 0.
        encoder_no_repeat_ngram_size: no sequence of so many tokens of the prompt occurs in the
            answer.
        forced_eos_token_id: ids; the last token that ``max_new_tokens`` allows is one of them.
        exponential_decay_length_penalty: (tokens, factor): after so many tokens the end becomes
            more probable from token to token; () is off.
        remove_invalid_values: logits that are NaN or infinite count as 0 or the largest numbers.
        presence_penalty: subtracted from the logit of each token that the answer so far has, -2 to
            2; the prompt does not count.
        frequency_penalty: as ``presence_penalty``, once for each time that the answer has it.
        logit_bias: pairs of a token id and what is added to its logit, -100 to 100. A mapping is
            taken too, with ids as numbers or as JSON has them.
        json_schema: the answer is JSON that is valid by this schema: tokens that would violate it
            are never picked, and the answer ends where it is complete. The schema is a mapping or
            its JSON text, ``"object"`` is any object; it is kept as text. If ``max_new_tokens``
            cuts the answer off, its finish reason is ``"length"``. ``min_new_tokens``,
            ``min_length`` and ``forced_eos_token_id`` have no effect then. What a schema may
            contain: `pocketvlm.decoders.json_schemas`. It needs the extra ``[grammar]``.

    Raises:
        RequestError: a value out of range; its ``setting`` is the name of the field.
    """

    max_new_tokens: int = 64
    min_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    suppress_tokens: TokenIds | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    base: Base = "greedy"
    typical_p: float | None = None
    min_length: int | None = None
    bad_words_ids: tuple[TokenIds, ...] | None = None
    begin_suppress_tokens: TokenIds | None = None
    sequence_bias: tuple[tuple[TokenIds, float], ...] | None = None
    encoder_repetition_penalty: float | None = None
    encoder_no_repeat_ngram_size: int | None = None
    forced_eos_token_id: TokenIds | None = None
    exponential_decay_length_penalty: tuple[()] | tuple[int, float] | None = None
    remove_invalid_values: bool | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] | Mapping[Any, float] = ()
    json_schema: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        settle_numbers(self)
        if isinstance(self.logit_bias, Mapping):
            object.__setattr__(self, "logit_bias", _as_pairs(self.logit_bias))
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", schema_text(self.json_schema))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # as they come from JSON
                object.__setattr__(self, field.name, value := _as_tuples(value))
            valid, expected = _RANGES[field.name]
            if not (value is None and field.default is None) and not valid(value):
                self._refuse(field.name, expected)
        if self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            self._refuse("min_new_tokens", f"0 to max_new_tokens, {self.max_new_tokens}")

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        text = repr(value) if isinstance(value, (str, tuple)) else str(value)
        raise RequestError(f"{name} {text[:80]}", expected=expected, setting=name)

    def over(self, own: Self) -> Self:
        """Return these settings with a checkpoint's ``own`` where they are None, see the class."""
        names = [*ALWAYS, *(DRAWN if self.base == "checkpoint" else ())]
        stated = {name: getattr(own, name) for name in names if getattr(self, name) is None}
        if (least := stated.get("min_new_tokens")) is not None:  # more than that there is no room
            stated["min_new_tokens"] = min(least, self.max_new_tokens)
        return replace(self, **stated)

    def settled(self) -> Self:
        """Return these settings with a value that changes nothing where they are None."""
        values = {name: each for name, each in NEUTRAL.items() if getattr(self, name) is None}
        return replace(self, **values)


# What changes nothing. These are applied to greedy answers too, ...
ALWAYS: Mapping[str, Any] = {
    "min_new_tokens": None,  # 0 would be an answer of any length, whatever min_length is
    "min_length": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "sequence_bias": (),
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "remove_invalid_values": False,
    "stop": (),
}
# ... and these where a token is drawn.
DRAWN: Mapping[str, Any] = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
}
NEUTRAL: Mapping[str, Any] = {**ALWAYS, **DRAWN}


def checkpoint_sampling(generation: Generation) -> Sampling:
    """How the checkpoint of an artifact was published to answer, by its manifest.

    Raises:
        ArtifactError: settings that this runtime does not have, or that are out of range. An
            answer without them would be another model's.
    """
    values = {**generation.processors, **generation.sampling}
    unknown = [name for name in values if name not in NEUTRAL]
    if unknown:
        raise ArtifactError(
            f"the artifact's answers go through {', '.join(unknown)}, which this pocketvlm lacks",
            advice="use the version that exported it, or export again",
        )
    try:
        return Sampling(**{"max_new_tokens": _LONGEST, **values}, base="checkpoint")
    except RequestError as error:
        raise ArtifactError(
            f"the artifact's generation settings are damaged ({error.reason})",
            advice="export or download it again",
        ) from error


def check_sampling(sampling: Any) -> None:
    """Raise `RequestError` where it is no `Sampling`, whose values have been checked."""
    if not isinstance(sampling, Sampling):
        raise RequestError(
            f"sampling is of type {type(sampling).__name__}",
            expected="a pocketvlm.Sampling",
            advice="leave it out for a greedy answer",
            setting="sampling",
        )


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _as_pairs(biases: Mapping[Any, Any]) -> tuple[tuple[Any, Any], ...]:
    """A mapping as pairs; ids that are texts, as JSON has them, become numbers where they are."""
    return tuple(
        (int(token) if isinstance(token, str) and token.isdecimal() else token, plain(bias))
        for token, bias in biases.items()
    )


def _is_number(value: Any) -> bool:
    numeric = isinstance(value, (int, float))
    return numeric and not isinstance(value, bool) and bool(abs(value) <= sys.float_info.max)


def _is_count(value: Any) -> bool:
    return is_int(value, least=0)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_part(value: Any) -> bool:
    return _is_positive(value) and value <= 1


def _are_ids(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_count(each) and each < 1 << 31 for each in value)


def _are_sequences(value: Any) -> bool:
    return isinstance(value, tuple) and all(_are_ids(each) and each for each in value)


def _are_biases(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and _are_sequences(pair[:1])
        and _is_number(pair[1])
        and abs(float(pair[1])) <= float(np.finfo(np.float32).max)
        for pair in value
    )


def _is_logit_bias(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and _are_ids(pair[:1])
        and _is_number(pair[1])
        and abs(pair[1]) <= _MOST_BIAS
        for pair in value
    )


def _is_openai_penalty(value: Any) -> bool:
    return _is_number(value) and abs(value) <= _MOST_PENALTY


def _is_decay(value: Any) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2
    return value == () or (pair and _is_count(value[0]) and _is_positive(value[1]))


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(text, str) and text for text in value)


_LONGEST = 1 << 31
_COUNT = (_is_count, "0 (off) or a number above it")
_PENALTY = (_is_positive, "a number above 0, 1 for none")
_IDS = (_are_ids, "a tuple of token ids")
_PART = (_is_part, "a number above 0, up to 1")
_MOST_PENALTY = 2
_MOST_BIAS = 100
_SUBTRACTED = (_is_openai_penalty, f"a number from -{_MOST_PENALTY} to {_MOST_PENALTY}")
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda value: is_int(value, least=1), "at least 1"),
    "min_new_tokens": _COUNT,
    "temperature": (
        lambda value: _is_number(value) and value >= 0,
        "0 (greedy) or a number above it",
    ),
    "top_k": (_is_count, "at least 1, or 0 for all"),
    "top_p": _PART,
    "min_p": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "repetition_penalty": _PENALTY,
    "no_repeat_ngram_size": _COUNT,
    "suppress_tokens": _IDS,
    "seed": (_is_count, "0 or a number above it"),
    "stop": (_are_texts, "a tuple of texts, none of them empty"),
    "base": (lambda value: value in get_args(Base), f"one of {', '.join(get_args(Base))}"),
    "typical_p": _PART,
    "min_length": _COUNT,
    "bad_words_ids": (_are_sequences, "a tuple of tuples of token ids, none of them empty"),
    "begin_suppress_tokens": _IDS,
    "sequence_bias": (_are_biases, "a tuple of pairs, token ids and a number"),
    "encoder_repetition_penalty": _PENALTY,
    "encoder_no_repeat_ngram_size": _COUNT,
    "forced_eos_token_id": _IDS,
    "exponential_decay_length_penalty": (_is_decay, "a number of tokens and a factor above 0"),
    "remove_invalid_values": (lambda value: isinstance(value, bool), "True or False"),
    "presence_penalty": _SUBTRACTED,
    "frequency_penalty": _SUBTRACTED,
    "logit_bias": (
        _is_logit_bias,
        f"token ids, each with a number from -{_MOST_BIAS} to {_MOST_BIAS}",
    ),
    "json_schema": (lambda value: isinstance(value, str), "a JSON schema, see `schema_text`"),
}

GREEDY = Sampling()
