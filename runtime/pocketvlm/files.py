"""Knows how a file is written so that nobody ever sees half of it."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it into place; raises OSError and then leaves nothing behind."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("xb") as stream:
            stream.write(data)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
