"""Knows what is remembered between processes: small tables in the user's cache folder, which nobody
else may write."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from pocketvlm.errors import RequestError
from pocketvlm.files import private_folder, replace_private
from pocketvlm.files.locks import locked
from pocketvlm_targets.text import parse_json

_WAIT = 30.0  # seconds; another process holds a table for milliseconds, but where it is starved
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
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:
        _log.debug("nothing is remembered: %s", error)
        return {}
    return data if isinstance(data, dict) else {}


def change_remembered(
    name: str, most: int, change: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> None:
    """Change a table in one step, which no other process does meanwhile: none loses what another
    has added. A read-only home is not a reason to refuse anything.

    Args:
        name: of the table.
        most: rows that are kept; the newest are the last.
        change: given the rows as they are now, returns them as they are to be.
    """
    try:
        path = cache_path(name)
        private_folder(path.parent)
        with locked(path, advice="begin again", wait=_WAIT):
            rows = change(read_remembered(name))
            replace_private(path, json.dumps(dict(list(rows.items())[-most:])).encode())
    # ValueError: a name that is not UTF-8
    except (OSError, RuntimeError, ValueError, RequestError) as error:
        _log.debug("it is not remembered: %s", error)


def _is_private(info: os.stat_result) -> bool:
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
