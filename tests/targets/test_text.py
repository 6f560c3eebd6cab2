"""JSON of strangers is read to a depth that nothing which goes down into it fails at."""

import copy
import json
from pathlib import Path

import pytest

from pocketvlm_targets.text import parse_json

ROOT = Path(__file__).parents[2]
# Who calls json's own reader: what it reads is ours, or is bounded there.
OWN = {
    "profiles/pocketvlm_targets/text.py": "parse_json",
    "runtime/pocketvlm/selftest/reading.py": "our schema",
    "runtime/pocketvlm/artifact/manifest.py": "our schema, and a manifest that is written",
    "exporter/pocketvlm_export/packaging/using.py": "our schema",
    "runtime/pocketvlm/web/libraries.py": "our list of packages",
    "runtime/pocketvlm/server/wire.py": "our other process",
    "profiles/pocketvlm_measure/profiler/once.py": "our other process",
    "profiles/pocketvlm_measure/profiler/measure.py": "our other process",
    "profiles/pocketvlm_measure/profiler/selection.py": "ONNX Runtime's events",
    "runtime/pocketvlm/upstream.py": "a decoder of tokenizers",
    "runtime/pocketvlm/vision/feature_cache.py": "a header that safetensors has read",
    "runtime/pocketvlm/server/bodies.py": "a bound of its own",
    "runtime/pocketvlm/decoders/json_schemas.py": "a bound of its own",
    "runtime/pocketvlm/decoders/constraints.py": "a schema that was bounded",
    "runtime/pocketvlm/text/tokenizer_files.py": "goes down no further than tokenizers do",
    "exporter/pocketvlm_export/gguf/vocabulary.py": "a tokenizer that was checked",
    "exporter/pocketvlm_export/checkpoint/processor.py": "what was bounded",
}
FORMS = [("[", "]", "1"), ('{"a": ', "}", "null"), ('[0, {"b": [], "a": ', "}, {}]", '"[[["')]


def nested(form, depth):
    begin, end, middle = form
    return begin * depth + middle + end * depth


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [1, 10, 31])
def test_what_models_have_is_read(form, depth):
    text = nested(form, depth)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [65, 300, 480, 900, 5000, 1_000_000])
def test_what_is_deeper_is_no_value(form, depth):
    with pytest.raises(ValueError, match="nested more than 64 levels deep"):
        parse_json(nested(form, depth))


def test_the_deepest_that_is_read_can_be_copied_from_deep_within_a_program():
    value = parse_json(nested(FORMS[0], 64))

    def within(calls):
        return copy.deepcopy(value) if calls == 0 else within(calls - 1)

    assert within(500) == value


def test_brackets_in_texts_are_no_levels():
    assert parse_json('["' + "[" * 1000 + '"]') == ["[" * 1000]


def test_constants_are_whose_reads_them():
    def refuse(constant):
        raise ValueError(constant)

    with pytest.raises(ValueError, match="NaN"):
        parse_json("[NaN]", parse_constant=refuse)


def test_strangers_json_is_read_by_no_other_means():
    sources = (
        path
        for each in ("runtime", "exporter", "profiles")
        for path in ROOT.glob(f"{each}/**/*.py")
    )
    calling = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if "json.load" in path.read_text(encoding="utf-8")
    }
    assert calling == OWN.keys()
