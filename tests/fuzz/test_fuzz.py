"""No input does harm: the short form of `make fuzz`. README.md says what each target stands for."""

import pytest

from fuzz.harness import fuzz, supported
from fuzz.table import words
from fuzz.targets import TARGETS

INPUTS = 300
pytestmark = pytest.mark.skipif(not supported(), reason="the harness asks what Linux alone tells")


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_does_harm(target):
    """Each is accepted, or refused in one line."""
    result = fuzz(target, INPUTS)
    assert not result.findings, words(result)
    assert result.counts.total() == INPUTS
    # Else it would be something else that refuses them.
    assert result.counts["accepted"] >= 5
    assert result.counts["refused"] >= 5
