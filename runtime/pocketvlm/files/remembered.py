"""Knows what is remembered between processes: small tables in the user's cache folder, which nobody
else may write."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from pocketvlm.files import private_folder, replace_private

_log = logging.getLogger(__name__)


def cache_path(name: str) -> Path:
    """Where a table lies: in the user's cache folder, never inside an artifact."""
    return platformdirs.user_cache_path("pocketvlm", appauthor=False) / name


def read_remembered(name: str) -> dict[str, Any]:
    """The rows of a table, by their names; an unreadable, foreign or damaged one has none, and what
    it knew is found out again."""
    try:
        path = cache_path(name)
        info = path.stat()
        # Who else may write it could have anything pass.
        if not stat.S_ISREG(info.st_mode) or (os.name == "posix" and not _is_private(info)):
            raise PermissionError(f"{path} is not private")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError) as error:
        _log.debug("nothing is remembered: %s", error)
        return {}
    return data if isinstance(data, dict) else {}


def write_remembered(name: str, rows: Mapping[str, Any], most: int) -> None:
    """Replace a table in one step by its newest ``most`` rows, which are the last; a read-only home
    is no reason to refuse anything."""
    try:
        path = cache_path(name)
        private_folder(path.parent)
        replace_private(path, json.dumps(dict(list(rows.items())[-most:])).encode())
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a name that is no UTF-8
        _log.debug("it is not remembered: %s", error)


def _is_private(info: os.stat_result) -> bool:
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
