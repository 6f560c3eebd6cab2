"""Knows how tasks are answered on a Ray cluster, which hands them out and repeats those lost with a
worker."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from pocketvlm.errors import EngineError, PocketVLMError
from pocketvlm_measure.evaluation.asking import Reply, answer_task
from pocketvlm_measure.evaluation.plan import Task

_AHEAD = 4  # tasks handed out per worker
_RETRIES = 5  # of a task whose worker was lost
_STORE = 100 << 20  # bytes of a cluster of our own


class Ray:
    """The cluster that RAY_ADDRESS names, or one of this machine alone.

    Every machine has pocketvlm, and the artifact and pictures under the same paths.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def answered(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Reply]]]:
        """See `Engine`; at most as many workers at once as were asked for."""
        left = iter(tasks)
        first = next(left, None)
        if first is None:
            return
        ray = _ray()
        threads = first.subject.cases[0].n_threads
        ours = not ray.is_initialized()
        if ours:
            connect(ray, self._workers * threads)
        # A worker is a process of its own that keeps its model; num_cpus is what bounds how many
        # there are.
        remote = ray.remote(answer_task).options(num_cpus=threads, max_retries=_RETRIES)
        waiting: dict[Any, Task] = {}
        left = itertools.chain([first], left)
        try:
            while True:
                for task in itertools.islice(left, _AHEAD * self._workers - len(waiting)):
                    waiting[remote.remote(task)] = task
                if not waiting:
                    return
                done, _ = ray.wait(list(waiting), num_returns=1)
                for reference in done:
                    yield waiting.pop(reference), _result(ray, reference)
        finally:
            for reference in waiting:
                ray.cancel(reference)
            if ours:
                ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            f"Ray is not installed ({error})",
            advice="pip install 'pocketvlm[cluster]'",
            setting="engine",
        ) from error
    return ray


def connect(ray: Any, cpus: int) -> None:
    """Join the cluster of RAY_ADDRESS, or start one of so many processors on this machine."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if "RAY_ADDRESS" not in os.environ:
        # Whatever else runs on this machine is not joined; tasks and replies are small.
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "object_store_memory": _STORE,
            "include_dashboard": False,
        }
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"no Ray cluster can be reached ({error})", advice="check RAY_ADDRESS"
        ) from error


def _result(ray: Any, reference: Any) -> list[Reply]:
    try:
        replies: list[Reply] = ray.get(reference)
    except PocketVLMError as error:
        # Ray's copy has the worker's traceback as its text; the cause is what the worker raised.
        raise getattr(error, "cause", error) from error
    except ray.exceptions.RayError as error:
        raise EngineError(
            f"a worker on the cluster was lost {_RETRIES + 1} times ({type(error).__name__})",
            advice="continue with --resume",
        ) from error
    return replies
