"""Knows how a JSON file of a checkpoint is read; what it holds is untrusted."""

import json
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in ``path``, {} where there is no such file; raises `PocketVLMError` for
    anything else."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON ({error})", advice="download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object", advice="download it again")
    return content
