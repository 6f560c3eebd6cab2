"""Knows how a JSON file of a checkpoint is read; what it holds is untrusted."""

import codecs
import json
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError
from pocketvlm.files import read_text


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in ``path``, {} where there is no such file; raises `PocketVLMError` for
    anything else."""
    if not path.is_file():
        return {}
    try:
        _refuse_mark(path)
        content = json.loads(read_text(path))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON ({error})", advice="download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object", advice="download it again")
    return content


def _refuse_mark(path: Path) -> None:
    """Refuse a file that transformers, which reads it after us, refuses without its name."""
    with path.open("rb") as stream:
        marked = stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    if marked:
        raise CheckpointError(
            f"{path} begins with a byte order mark, which transformers does not read",
            advice="save it as UTF-8 without one",
        )
