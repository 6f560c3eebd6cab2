"""Which JSON schemas are taken, and how hostile ones are refused."""

import json

import pytest

from pocketvlm import Sampling
from pocketvlm.decoders.json_schemas import (
    MAX_BYTES,
    MAX_COMBINED,
    MAX_DEPTH,
    MAX_VALUES,
    read_schema,
)
from pocketvlm.errors import RequestError

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {"b": {"type": "integer"}, "a": {"type": "string"}},
    "required": ["b"],
}


def refused(schema):
    with pytest.raises(RequestError) as error:
        Sampling(json_schema=schema)
    assert error.value.setting == "json_schema"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_schema_is_kept_as_text_with_its_order():
    sampling = Sampling(json_schema=SCHEMA)
    text = sampling.json_schema
    assert json.loads(text) == SCHEMA
    assert text.index('"b"') < text.index('"a"')
    same = Sampling(json_schema=json.dumps(SCHEMA, indent=4))
    assert same == sampling == Sampling(json_schema=text)
    assert hash(same) == hash(sampling)
    assert Sampling().json_schema is None


@pytest.mark.parametrize(
    "schema", [3, True, [], "", "[]", "null", "objects", '{"a":', '{"a": NaN}']
)
def test_what_is_no_schema_is_refused(schema):
    assert "JSON schema is no" in refused(schema)


def nested(depth, schema=None):
    schema = {} if schema is None else schema
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def itself():
    schema = {"type": "array"}
    schema["items"] = schema
    return schema


def test_what_is_too_large_or_too_deep_is_refused():
    assert "nested too deeply" in refused(nested(MAX_DEPTH + 1))
    assert "nested too deeply" in refused(itself())
    assert "nested too deeply" in refused("[" * 60_000)
    assert "too many parts" in refused({"enum": list(range(MAX_VALUES))})
    assert f"at most {MAX_BYTES}" in refused({"description": "x" * MAX_BYTES})
    assert f"at most {MAX_BYTES}" in refused(json.dumps({"description": "x" * 8 * MAX_BYTES}))
    assert "is not JSON" in refused({"const": {1, 2}})
    assert "is not JSON" in refused({"maximum": float("inf")})
    assert Sampling(json_schema=nested(MAX_DEPTH - 2)).json_schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "unheard of"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "string", "pattern": "("},
        {"type": "string", "format": "unheard-of"},
        {"not": {"type": "string"}},
        {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "integer", "minimum": "x"},
        {"properties": 3},
    ],
    ids=str,
)
def test_what_no_grammar_can_be_made_of_is_refused(schema):
    assert "cannot be made a grammar" in refused(schema)


def chain(count, link):
    steps = {f"s{i}": link(f"#/$defs/s{i + 1}") for i in range(count)}
    return {"$defs": {**steps, f"s{count}": {"type": "null"}}, "$ref": "#/$defs/s0"}


def doubling(count):
    """Of which every step has the next twice."""
    return chain(count, lambda ref: {"allOf": [{"$ref": ref}, {"$ref": ref}]})


def meeting(count):
    return [{"type": "string", "pattern": f"^(.*a){{{n}}}.*$"} for n in range(1, count + 1)]


HOSTILE = {
    "a long chain": chain(1000, lambda ref: {"$ref": ref}),
    "a long chain of allOf": chain(400, lambda ref: {"allOf": [{"$ref": ref}]}),
    "a long chain of arrays": chain(600, lambda ref: {"items": {"$ref": ref}}),
    "doubling by allOf": doubling(30),
    "doubling by anyOf": chain(30, lambda ref: {"anyOf": [{"$ref": ref}, {"$ref": ref}]}),
    "a repeated pattern": {"type": "string", "pattern": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"},
    "a pattern with many states": {"type": "string", "pattern": "^(a|b)*a(a|b){25}$"},
    "patterns that meet": {"allOf": meeting(29)},
    "a great length": {"type": "string", "minLength": 10**9, "maxLength": 10**10},
    "many items": {"type": "array", "items": {"type": "null"}, "minItems": 10**6},
    "many items at most": {"type": "array", "items": {"type": "null"}, "maxItems": 10**9},
    "a great range": {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
    "a great divisor": {"type": "integer", "multipleOf": 99_999_989, "minimum": 1},
    "a small divisor": {"type": "number", "multipleOf": 1e-9},
    "many options": {"enum": [f"{i:05}" for i in range(4000)]},
    "many properties": {
        "type": "object",
        "properties": {f"p{i}": {"type": "integer"} for i in range(1300)},
        "minProperties": 1,
    },
    "nothing but itself": {"$ref": "#"},
    "no end": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "settings of the library": {"x-guidance": {"lenient": True, "whitespace_pattern": "("}},
}


REFUSED = {
    "patterns that meet",
    "a great length",
    "a great range",
    "many properties",
}
TAKEN = HOSTILE.keys() - REFUSED


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_taken_or_refused_in_words(name):
    """And the process continues; what takes too long ends in a refusal too."""
    if name in TAKEN:
        assert Sampling(json_schema=HOSTILE[name]).json_schema
    else:
        assert len(refused(HOSTILE[name])) < 400


def test_patterns_that_are_combined_are_few():
    apart = {f"p{i}": each for i, each in enumerate(meeting(MAX_COMBINED + 1))}
    assert Sampling(json_schema={"type": "object", "properties": apart}).json_schema
    for schema in (
        {"allOf": meeting(MAX_COMBINED + 1)},
        {"type": "object", "properties": {**apart, "x": {"allOf": [{}]}}},
        {"type": "object", "properties": {**apart, "x": {"$ref": "#/y", "pattern": "z"}}},
        {"patternProperties": {f"^{i}": {} for i in range(20)}, "allOf": []},
    ):
        assert f"at most {MAX_COMBINED}" in refused(schema)
    assert "cannot be made a grammar" in refused({"allOf": meeting(MAX_COMBINED)})


def test_settings_of_the_library_are_not_the_schemas_to_make():
    assert Sampling(json_schema=HOSTILE["settings of the library"])
    lenient = {"x-guidance": {"lenient": True}, "not": {"type": "string"}}
    assert "cannot be made a grammar" in refused(lenient)


def test_a_schema_is_read_from_a_file(tmp_path):
    path = tmp_path / "schema.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(SCHEMA).encode())
    assert json.loads(read_schema(path)) == SCHEMA
    for data, reason in ((b"\xff\xff", "cannot be read"), (b" " * (8 * MAX_BYTES), "more than")):
        path.write_bytes(data)
        with pytest.raises(RequestError, match=reason):
            read_schema(path)
    with pytest.raises(RequestError, match="cannot be read"):
        read_schema(tmp_path / "missing.json")
