"""Knows how a deployment target reaches the runtime and the exporter: its errors as ours."""

from __future__ import annotations

import os

from pocketvlm.errors import PocketVLMError
from pocketvlm_profiles import Target, TargetError
from pocketvlm_profiles import load_target as read

__all__ = ["Target", "load_target"]


def load_target(name_or_file: str | os.PathLike[str]) -> Target:
    """Read a shipped target by name, or a TOML file; raises `PocketVLMError` naming the file and the key."""
    try:
        return read(name_or_file)
    except TargetError as error:
        raise PocketVLMError(str(error)) from error
