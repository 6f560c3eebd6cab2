"""Knows how a file is written so that no other process ever reads half of it, how text that people
edit is read, and what people mean by a path."""

import os
from pathlib import Path

from pocketvlm_targets.text import decode_text
from pocketvlm_targets.text import user_path as user_path  # for all that is no target


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it into place; raises OSError and then leaves
    nothing behind."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a file that people edit, see `decode_text`: a byte order mark is left out, lines
    end in ``\\n``; raises OSError, or ValueError with the reason where it is no UTF-8."""
    return decode_text(path.read_bytes())
