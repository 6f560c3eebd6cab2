"""Errors cross from one process to another with their class and their fields; what is taken over
from those of other libraries."""

import json

import pytest

from pocketvlm.errors import (
    ArtifactError,
    CheckpointError,
    EngineError,
    PictureError,
    PocketVLMError,
    RequestError,
    error_from_dict,
    first_line,
)


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
