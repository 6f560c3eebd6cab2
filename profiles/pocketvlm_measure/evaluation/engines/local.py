"""Knows how tasks are answered on this machine: one after another here, or in several processes."""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from pocketvlm.errors import EngineError
from pocketvlm.files.spawning import spawn_context
from pocketvlm.limits import whole
from pocketvlm_measure.evaluation.asking import Reply, answer_task
from pocketvlm_measure.evaluation.engines.base import Engine
from pocketvlm_measure.evaluation.plan import Task

_AHEAD = 4  # tasks handed out per worker: none waits, and few are lost with a worker


def local(workers: int) -> Engine:
    """This process for one worker, else as many processes of this machine."""
    return Processes(workers) if whole(workers, "workers", least=1) > 1 else Inline()


class Inline:
    """This process."""

    def answered(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Reply]]]:
        """See `Engine`."""
        for task in tasks:
            yield task, answer_task(task)


class Processes:
    """Several processes, each with a model of its own."""

    def __init__(self, workers: int) -> None:
        self._workers = whole(workers, "workers", least=1)

    def answered(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Reply]]]:
        """See `Engine`; the first tasks of a subject wait until the last ones of another are
        done."""
        # Spawned, not forked: engines hold threads that a fork would cut off.
        context = spawn_context()
        pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_obey_the_parent)
        waiting: dict[Future[list[Reply]], Task] = {}
        left = iter(tasks)
        try:
            while True:
                for task in itertools.islice(left, _AHEAD * self._workers - len(waiting)):
                    waiting[pool.submit(answer_task, task)] = task
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "a worker process was ended from outside, perhaps because memory ran out",
                advice="continue with --resume and fewer --workers",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _obey_the_parent() -> None:
    """Leave interrupts to it, and do not outlive it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Have this process end at once when the one that began it does, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
