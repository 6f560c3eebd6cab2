"""Knows the keys of a request beside its messages: their schema, what they set, what is not
served."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastjsonschema

from pocketvlm.decoders.json_schemas import ANY_OBJECT
from pocketvlm.decoders.sampling import Base, Sampling
from pocketvlm.errors import RequestError
from pocketvlm.server.errors import Refusal, bad_request, refusal_of

MOST_TOKENS = 512  # of an answer whose request states no limit
_MOST_STOPS = 16
_LONGEST_STOP = 1000  # characters
_LONGEST_NAME = 200
_MOST_BIASES = 1024
_MOST_SEED = (1 << 63) - 1

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a request asks for beside its messages.

    Attributes:
        sampling: fields of `pocketvlm.Sampling`, as JSON has them.
        max_tokens: of the answer; None is `MOST_TOKENS`, or what the context leaves.
        budget: visual tokens per tile; None is the server's.
        vision_precision: None is the server's.
        decoder_precision: None is the server's.
        model: the name that was asked for; None where there is none.
        stream: whether the answer comes piece by piece.
        include_usage: whether a stream ends with what it took.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    budget: int | None = None
    vision_precision: str | None = None
    decoder_precision: str | None = None
    model: str | None = None
    stream: bool = False
    include_usage: bool = False


def _number(least: float | None = None, most: float | None = None, **further: Any) -> Schema:
    return _ranged("number", least, most, **further)


def _whole(least: int | None = None, most: int | None = None, **further: Any) -> Schema:
    return _ranged("integer", least, most, **further)


def _ranged(kind: str, least: float | None, most: float | None, **further: Any) -> Schema:
    bounds = {"minimum": least, "maximum": most}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return {"type": [kind, "null"], **given, **further}


def _one_of(*values: Any) -> Schema:
    return {"enum": [*values, None]}


_NAME: Schema = {"type": ["string", "null"], "minLength": 1, "maxLength": _LONGEST_NAME}
_NONE_OF: Schema = {"type": ["array", "null"], "maxItems": 0}
_STOP: Schema = {
    "type": ["string", "array", "null"],
    "minLength": 1,
    "maxLength": _LONGEST_STOP,
    "items": {"type": "string", "minLength": 1, "maxLength": _LONGEST_STOP},
    "maxItems": _MOST_STOPS,
}
_MOST_WHOLE = (1 << 31) - 1

# Keys that are fields of `Sampling` as they are.
SAMPLING: Mapping[str, Schema] = {
    "temperature": _number(0, description="0 is greedy, and so is none at all"),
    "top_p": _number(None, 1, exclusiveMinimum=0),
    "top_k": _whole(0, _MOST_WHOLE, description="0 is off"),
    "min_p": _number(0, 1),
    "repetition_penalty": _number(exclusiveMinimum=0, description="above 1 repeats less"),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logit_bias": {
        "type": ["object", "null"],
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": _MOST_BIASES,
    },
}
# Other keys that change an answer.
_OTHER: Mapping[str, Schema] = {
    "model": {"type": ["string", "null"], "maxLength": _LONGEST_NAME},
    "seed": _whole(-1, _MOST_SEED, description="-1 draws a new one each time"),
    "stop": _STOP,
    "max_tokens": _whole(1, _MOST_WHOLE),
    "max_completion_tokens": _whole(1, _MOST_WHOLE, description="goes before max_tokens"),
    "budget": _whole(1, _MOST_WHOLE, description="visual tokens per picture or tile"),
    "precision": {**_NAME, "description": "of the decoder, as decoder_precision"},
    "decoder_precision": _NAME,
    "vision_precision": _NAME,
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {
        "type": ["object", "null"],
        "properties": {"include_usage": {"type": ["boolean", "null"]}},
    },
    "response_format": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {
                "type": "object",
                "properties": {"schema": {"type": ["object", "null"]}},
                "description": "the answer is JSON that is valid by its schema",
            },
        },
    },
}
# What would change an answer and is not done: the values that ask for nothing, and the refusal of
# all others.
_REFUSED: Mapping[str, tuple[Schema, str]] = {
    "n": (_one_of(1), "one answer is given to each request"),
    "tools": (_NONE_OF, "tools are not served"),
    "tool_choice": (_one_of("none", "auto"), "tools are not served"),
    "functions": (_NONE_OF, "functions are not served"),
    "function_call": (_one_of("none", "auto"), "functions are not served"),
    "logprobs": (_one_of(False), "log probabilities are not served"),
    "top_logprobs": (_one_of(0), "log probabilities are not served"),
    "audio": ({"type": "null"}, "answers are text"),
    "modalities": (_one_of(["text"]), "answers are text"),
    "web_search_options": ({"type": "null"}, "nothing is searched"),
}
PROPERTIES: Mapping[str, Schema] = {
    **SAMPLING,
    **_OTHER,
    **{name: schema for name, (schema, _) in _REFUSED.items()},
}


@functools.cache
def _validate() -> Callable[[Any], Any]:
    schema = {"type": "object", "properties": PROPERTIES}
    validate: Callable[[Any], Any] = fastjsonschema.compile(schema, use_default=False)
    return validate


def read_settings(body: Mapping[str, Any], base: Base = "greedy") -> Settings:
    """Read what a request states beside its messages; keys that are unknown are ignored.

    Args:
        body: the whole request.
        base: what a `Sampling` takes what it leaves out from.

    Raises:
        Refusal: a value of another kind or range, or one that asks for what is not done.
    """
    try:
        _validate()(body)
    except fastjsonschema.JsonSchemaValueException as error:
        raise _refusal(error) from error
    stated = {name: value for name, value in body.items() if value is not None}
    sampling = {name: stated[name] for name in SAMPLING if name in stated} | {"base": base}
    if stated.get("seed", -1) >= 0:
        sampling["seed"] = int(stated["seed"])
    if stop := stated.get("stop"):
        sampling["stop"] = [stop] if isinstance(stop, str) else stop
    if "top_k" in sampling:
        sampling["top_k"] = int(stated["top_k"])  # JSON has 1.0 for 1
    _check(sampling)
    if (schema := _json_schema(stated.get("response_format") or {})) is not None:
        sampling["json_schema"] = schema
    return Settings(
        sampling,
        _whole_of(stated, "max_completion_tokens", "max_tokens"),
        _whole_of(stated, "budget"),
        stated.get("vision_precision"),
        stated.get("decoder_precision", stated.get("precision")),
        stated.get("model"),
        bool(stated.get("stream")),
        bool((stated.get("stream_options") or {}).get("include_usage")),
    )


def _json_schema(response_format: Mapping[str, Any]) -> Any:
    """What `Sampling.json_schema` is for OpenAI's ``response_format``; None where answers are
    text. It is checked where the model is: a library makes a grammar of it."""
    if response_format.get("type") == "json_schema":
        named = response_format.get("json_schema")
        if named is None:  # some clients write the schema elsewhere, and any object would do then
            param = "response_format.json_schema"
            raise bad_request(f"{param} must be an object with the schema", param, "invalid_value")
        schema = named.get("schema")
        return ANY_OBJECT if schema is None else schema
    return ANY_OBJECT if response_format.get("type") == "json_object" else None


def _whole_of(stated: Mapping[str, Any], *names: str) -> int | None:
    """The first of these keys that is stated."""
    return next((int(stated[name]) for name in names if name in stated), None)


def _check(sampling: Mapping[str, Any]) -> None:
    """What the schema lets through and `Sampling` does not, before anybody waits in line."""
    try:
        Sampling(**sampling)
    except RequestError as error:
        raise refusal_of(error.to_dict()) from error


def _refusal(error: fastjsonschema.JsonSchemaValueException) -> Refusal:
    path = [str(part) for part in error.path[1:]]
    param = ".".join(path)
    if path and path[0] in _REFUSED:
        return bad_request(f"{param}: {_REFUSED[path[0]][1]}", path[0], "unsupported_value")
    # "data.stop[0] must be ...": the words are the library's, without its name of the whole.
    message = error.message.removeprefix("data").removeprefix(".")
    return bad_request(message, param or None, "invalid_value")
