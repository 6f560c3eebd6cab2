"""Errors cross from one process to another with their class and their fields; what is taken over
from those of other libraries."""

import json

import pytest
from tokenizers import decoders

from pocketvlm.errors import (
    ArtifactError,
    CheckpointError,
    EngineError,
    PictureError,
    PocketVLMError,
    RequestError,
    error_from_dict,
    first_line,
    library_errors,
)
from pocketvlm_targets import TargetError


@pytest.mark.parametrize(
    "kind",
    [PocketVLMError, CheckpointError, ArtifactError, PictureError, RequestError, EngineError],
)
def test_an_error_comes_back_as_it_was(kind):
    error = kind("this", expected="that", advice="do so", setting="budget")
    back = error_from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(back) is kind
    assert (str(back), vars(back)) == (str(error), vars(error))


def test_a_class_from_elsewhere_comes_back_as_the_base():
    class ParityError(PocketVLMError):
        pass

    back = error_from_dict(ParityError("this", advice="do so").to_dict())
    assert type(back) is PocketVLMError
    assert str(back) == "this: do so"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no header"), "no header"),
        (ValueError("no header\nat offset 8\r\nin a.bin"), "no header"),
        (ValueError("\n  no header \n"), "no header"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError(""), "ValueError"),
        (ValueError(" \n\n"), "ValueError"),
        (ValueError("x" * 300), "x" * 300),
        (ValueError("x" * 5000 + "\ny"), "x" * 300),
    ],
)
def test_the_first_line_is_short_and_never_empty(error, line):
    assert first_line(error) == line


def panic():
    """What a Rust library raises: a class beside `Exception`."""
    decoders.Strip(" ", 1, 1).decode([" "])


@pytest.mark.parametrize(
    "fault", [panic, lambda: {}["a\nb"], lambda: [].pop(), lambda: 1 / 0, lambda: "a".encode("no")]
)
def test_whatever_a_library_raises_is_a_refusal_in_one_line(fault):
    with pytest.raises(ArtifactError) as refusal, library_errors(lambda why: ArtifactError(why)):
        fault()
    assert str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.__cause__ is not None


def test_a_panic_is_no_exception():
    """Or nobody would need more than ``except Exception``."""
    with pytest.raises(BaseException, match="slice index") as panicked:
        panic()
    assert not isinstance(panicked.value, Exception)


@pytest.mark.parametrize(
    "asked", [KeyboardInterrupt, SystemExit, GeneratorExit, RequestError("asked")]
)
def test_what_a_person_asks_for_passes(asked):
    with (
        pytest.raises(asked if isinstance(asked, type) else RequestError),
        library_errors(ArtifactError),
    ):
        raise asked


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ("two\nlines", "two lines: expected that; do so"),
        ("a\r\nb\x0bc\u2028d", "a b c d: expected that; do so"),
        ("half a \ud800 letter", "half a \\ud800 letter: expected that; do so"),
    ],
)
@pytest.mark.parametrize("kind", [ArtifactError, TargetError])
def test_what_a_stranger_wrote_is_one_line_that_can_be_printed(kind, found, line):
    error = kind(found, expected="that", advice="do so")
    assert str(error) == line
    assert str(error).encode()
    assert error.found == found  # programs have it as it was


def test_a_long_line_is_cut_in_its_middle():
    line = str(ArtifactError("begin" + "x" * 30_000, advice="copy it again"))
    assert len(line) < 2000
    assert line.startswith("beginxxx")
    assert line.endswith("xxx: copy it again")
