"""Targets that are written: read again they are the same, whatever a reason holds."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm_targets import TargetError, load_target, target_names, target_of, write_target

NAMES = st.from_regex(r"[a-z0-9_]{1,20}", fullmatch=True)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "pruner": st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,9})?", fullmatch=True),
        "budget": st.lists(st.integers(1, 9999), min_size=1, max_size=4, unique=True),
        "tower_stage": st.sampled_from([["2:72"], ["1:96:keys", "3:48:even"]]),
        "vision_precision": st.lists(NAMES, min_size=1, max_size=3, unique=True),
        "decoder_precision": st.lists(NAMES, min_size=1, max_size=3, unique=True),
        "threads": st.integers(1, 64),
        "memory_limit": st.integers(1, 10_000_000),
        "portable": st.booleans(),
    },
)
HOSTILE = 'x"\n]\nbudget = [1]\n# \x1b[2J\x7f\u2028\\ \'"""'


@settings(deadline=None, max_examples=60)
@given(VALUES, st.text(max_size=300), st.text(max_size=80))
def test_what_is_written_is_read_again(tmp_path_factory, values, reason, description):
    given_values = {key: (value, reason) for key, value in values.items()}
    line = " ".join(description.split())
    if not line:
        with pytest.raises(TargetError, match="description"):
            target_of(description, given_values)
        return
    path = tmp_path_factory.mktemp("written") / "device.toml"
    path.write_text(write_target(target_of(description, given_values)), encoding="utf-8")
    table = tomllib.loads(path.read_text(encoding="utf-8"))  # Python's own reader
    assert {key: table[key] for key in values} == values
    assert set(table) == {*values, "description"}
    read = load_target(path)
    spoken = "".join(each if each.isprintable() else "?" for each in " ".join(reason.split()))
    expected = dict.fromkeys(values, spoken) if spoken else {}
    assert read.reasons == expected


def test_every_shipped_target_survives(tmp_path):
    for name in target_names():
        path = tmp_path / f"{name}.toml"
        shipped = load_target(name)
        path.write_text(write_target(shipped), encoding="utf-8")
        again = load_target(path)
        assert again.settings() == shipped.settings()
        assert again.reasons == shipped.reasons


def test_hostile_text_stays_a_comment_and_a_text(tmp_path):
    path = Path(tmp_path / "device.toml")
    written = write_target(target_of(HOSTILE, {"budget": ([64], HOSTILE)}))
    assert "\x1b" not in written
    assert "\x7f" not in written
    assert "\u2028" not in written
    path.write_text(written, encoding="utf-8")
    read = load_target(path)
    assert read.budget == (64,)
    assert read.description.startswith('x" ] budget = [1] #')


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("pruner", "Scope", "small letters"),
        ("pruner", "a" * 41, "small letters"),
        ("pruner", 3, "small letters"),
        ("tower_stage", ["2"], "LAYER:KEEP"),
        ("tower_stage", "2:72", "a list"),
        ("tower_stage", ["2:72:x y"], "LAYER:KEEP"),
    ],
)
def test_methods_and_stages_are_checked(key, value, expected):
    with pytest.raises(TargetError, match=expected):
        target_of("a board", {key: (value, "")})
