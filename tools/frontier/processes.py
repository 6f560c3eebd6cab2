"""Knows how work is shared among processes: each call in one of them, in no order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from pocketvlm.files.spawning import spawn_context

Result = TypeVar("Result")


def in_processes(calls: Sequence[Callable[[], Result]], workers: int) -> Iterator[Result]:
    """Each call's result as it comes; in this process where one is enough. Calls are pickled."""
    if workers == 1 or len(calls) < 2:
        for call in calls:
            yield call()
        return
    # Spawned: torch's threads would not survive a fork.
    with ProcessPoolExecutor(workers, spawn_context()) as pool:
        for done in as_completed([pool.submit(call) for call in calls]):
            yield done.result()
