"""Knows how another process of this program is begun so that it imports nothing out of the folder
that the program is run in, which may be a stranger's."""

from __future__ import annotations

import multiprocessing.context
import os
from collections.abc import Iterator
from contextlib import contextmanager

_SAFE_PATH = "PYTHONSAFEPATH"


class _Process(multiprocessing.context.SpawnProcess):
    def start(self) -> None:
        with _safe_path():
            super().start()


class _Context(multiprocessing.context.SpawnContext):
    Process = _Process


def spawn_context() -> multiprocessing.context.SpawnContext:
    """Return multiprocessing's way of starting processes by spawning them, made safe.

    multiprocessing runs ``python -c`` for each, and for the one that clears up behind them, which
    imports from the current folder before anything else. A file ``runpy.py`` of a downloaded
    checkpoint would be run by whoever works in its folder. What the program itself imports from is
    handed over afterwards, as always.
    """
    if os.name == "posix":
        from multiprocessing import resource_tracker  # begun once, with the first lock

        with _safe_path():
            resource_tracker.ensure_running()
    return _Context()


@contextmanager
def _safe_path() -> Iterator[None]:
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SAFE_PATH, None)
        else:
            os.environ[_SAFE_PATH] = before
