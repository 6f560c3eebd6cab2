"""What is taken over from the errors of other libraries."""

import pytest

from pocketvlm.errors import first_line


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
