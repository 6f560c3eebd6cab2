"""Knows which JSON schemas an answer may be held to: how large, how deep, and that a grammar can be
made of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketvlm.decoders.constraints import check_grammar
from pocketvlm.errors import RequestError, first_line
from pocketvlm_targets.text import decode_text

ANY_OBJECT = "object"  # in place of a schema
MAX_BYTES = 64 << 10  # of its JSON text
# Objects and lists within each other. The library goes down into them and into what they refer to.
MAX_DEPTH = 32
MAX_VALUES = 4096  # objects, lists, texts and numbers, at any depth
# Regular expressions and formats, where schemas are combined. What has to be all of them at once is
# one expression to the library, and where it gives up it writes that out: twice as long for each.
MAX_COMBINED = 12
_MOST_READ = 4 * MAX_BYTES  # with spaces and the like, which are left out


def schema_text(schema: str | Mapping[str, Any]) -> str:
    """The JSON text of a schema, without spaces; keys stay in their order, which is that of the
    answer's properties.

    JSON Schema, draft 2020-12, as far as llguidance knows it: types, ``properties``, ``required``,
    ``enum``, ``const``, ``anyOf``, most of ``allOf``, ``$ref`` within the schema, ``items``,
    lengths, ranges, ``pattern`` and the usual formats. What it cannot hold an answer to
    (``oneOf`` of schemas that may overlap, ``not``, lookarounds, other formats) is refused.

    Args:
        schema: a mapping, its JSON text, or `ANY_OBJECT`.

    Raises:
        RequestError: no schema, one beyond the limits above, or one that no grammar can be made
            of; or the extra ``[grammar]`` is missing. Its ``setting`` is ``"json_schema"``.
    """
    if isinstance(schema, str) and schema == ANY_OBJECT:
        schema = {"type": "object"}
    data = _parsed(schema) if isinstance(schema, str) else schema
    if not isinstance(data, Mapping):
        raise _refusal("is not an object", expected="a JSON schema, an object")
    _check_extent(data)
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _refusal(f"is not JSON ({error})"[:120]) from error
    if len(text) > MAX_BYTES:
        raise _refusal(f"has {len(text)} bytes", expected=f"at most {MAX_BYTES}")
    check_grammar(text)
    return text


def read_schema(path: Path) -> str:
    """The text of a file with a schema, not checked yet.

    Raises:
        RequestError: it cannot be read, is too large or no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_READ + 1)
        if len(data) > _MOST_READ:
            raise _refusal(f"in {path} has more than {_MOST_READ} bytes", f"at most {MAX_BYTES}")
        return decode_text(data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise _refusal(f"in {path} cannot be read ({reason})") from error


def _parsed(text: str) -> Any:
    if len(text) > _MOST_READ:
        raise _refusal(f"has {len(text)} bytes", expected=f"at most {MAX_BYTES}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _refusal(f"is not JSON ({reason})"[:120]) from error


def _check_extent(schema: Mapping[str, Any]) -> None:
    """Refuse what is too deep or has too many parts, without going down into it by recursion."""
    level: list[Any] = [schema]
    values, patterns, combined = 0, set[str](), False
    for depth in range(MAX_DEPTH + 1):
        values += len(level)
        if values > MAX_VALUES:
            raise _refusal("has too many parts", expected=f"at most {MAX_VALUES} values in all")
        inner = [each for each in level if isinstance(each, Mapping | list | tuple)]
        for each in inner:
            if isinstance(each, Mapping):
                patterns |= _patterns(each)
                combined = combined or _combines(each)
        if combined and len(patterns) > MAX_COMBINED:
            raise _refusal(
                f"combines {len(patterns)} patterns and formats", expected=f"at most {MAX_COMBINED}"
            )
        if not inner:
            return
        if depth == MAX_DEPTH:
            raise _refusal("is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        level = [
            part
            for each in inner
            for part in (each.values() if isinstance(each, Mapping) else each)
        ]


def _patterns(schema: Mapping[str, Any]) -> set[str]:
    stated = {value for name in ("pattern", "format") if isinstance(value := schema.get(name), str)}
    named = schema.get("patternProperties")
    return stated | set(map(str, named)) if isinstance(named, Mapping) else stated


def _combines(schema: Mapping[str, Any]) -> bool:
    """Whether a text may have to match this schema and one elsewhere too."""
    others = schema.keys() - _NOTES
    return "allOf" in schema or (bool(others & _ELSEWHERE) and len(others) > 1)


_ELSEWHERE = frozenset({"$ref", "anyOf", "oneOf"})
_NOTES = frozenset(
    {"$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples"}
)


def _refusal(fault: str, expected: str = "") -> RequestError:
    return RequestError(f"the JSON schema {fault}", expected=expected, setting="json_schema")
